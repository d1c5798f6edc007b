"""Configuration: one pydantic model gives a recipe its validation, its YAML file, its flags and its help."""

from __future__ import annotations

from bitdial.configuration.files import read_yaml as read_yaml
from bitdial.configuration.files import to_yaml as to_yaml
from bitdial.configuration.flags import take_operands as take_operands
from bitdial.configuration.loading import load_config as load_config
from bitdial.configuration.loading import problems_of as problems_of
from bitdial.configuration.settings import settings as settings
from bitdial.options import Config as Config
