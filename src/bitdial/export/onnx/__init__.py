"""Files of ONNX: what was trained at low precision, for other runtimes, with the proof that they compute the same."""

from bitdial.export.onnx.file import read_told as read_told
from bitdial.export.onnx.parity import Parity as Parity
from bitdial.export.onnx.traps import Trap as Trap
from bitdial.export.onnx.writing import OnnxFile as OnnxFile
from bitdial.export.onnx.writing import export_onnx as export_onnx
