"""What one device or a fleet says of itself over MQTT, collected and shown in a terminal.

`Picture` takes the messages (from anybody: nothing in them is trusted), `Listener` brings them, `screen` shows them.
"""

from edgerun.watch.listening import Listener
from edgerun.watch.picture import Picture

__all__ = ["Listener", "Picture"]
