"""The styles and forms of files of ONNX by name; without torch, for options and help."""

STYLES = ("qdq", "native", "qonnx")
FORMS = ("exact", "fast")
