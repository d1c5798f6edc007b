from .packing import PackedWeight as PackedWeight
from .packing import pack as pack
from .products import packed_conv2d as packed_conv2d
from .products import packed_matmul as packed_matmul
from .trial import why_no_triton as why_no_triton
