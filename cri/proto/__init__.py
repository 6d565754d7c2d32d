"""Messages: the few fields of the CRI that Podthaw reads or rewrites.

``cri.proto`` is the source; ``python -m cri.proto.generate`` writes :mod:`cri.proto.cri_pb2`.
"""
