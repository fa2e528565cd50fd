"""The one MQTT connection.

`Connection` is what others hold (`ports.Broker`): a bounded queue (`Outgoing`) in front of one thread, "mqtt", which
is the only one that ever touches paho. A `Link` is one network connection from CONNECT to its `Ending`, a `Session`
what is done with it once it is accepted; `Reconnect` decides what follows an ending.
"""
