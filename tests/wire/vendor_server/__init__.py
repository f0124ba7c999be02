"""A local stand-in for the vendors' HTTP APIs: four wires, whole and streaming, as strict as the real ones
about requests.

What it refuses, and with which words, follows the vendors' documentation. It knows nothing of callbox.
"""

from wire.vendor_server.script import Call, Cut, Fail, Garbage, Hang, Raw, Say, StreamError
from wire.vendor_server.server import Seen, VendorServer

__all__ = ["Call", "Cut", "Fail", "Garbage", "Hang", "Raw", "Say", "Seen", "StreamError", "VendorServer"]
