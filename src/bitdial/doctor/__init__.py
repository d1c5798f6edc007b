"""The doctor: what this machine can do, found out by trying."""

from __future__ import annotations

from bitdial.doctor.command import examine as examine
from bitdial.doctor.findings import Finding as Finding
