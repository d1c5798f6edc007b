"""SHIP: packed files."""

from bitdial.export.container import DamagedPackedFile as DamagedPackedFile
from bitdial.export.contents import StoredWeight as StoredWeight
from bitdial.export.packed import load_packed as load_packed
from bitdial.export.packed import save_packed as save_packed
from bitdial.export.sizes import PackedSizes as PackedSizes
from bitdial.export.sizes import packed_sizes as packed_sizes
