"""Store and forward: what the broker has not acknowledged yet survives on disk, within stated bounds.

`Spool` takes the place of the broker's queue in memory (`broker.outgoing.Outgoing`): the connection cannot tell them
apart. Behind it one thread, "spool", is the only one that touches the disk, through a `Store`: a folder with a `Log`
for each class of message, each a chain of append-only segment files.

**Why segments and not SQLite.** Measured at ten messages a second of 400 bytes and one sync a second on ext4, bytes
written to the device (`/proc/self/io`) for each byte of message: SQLite in WAL mode 5.2 at ten messages a commit and
13.4 at one (which a kill needs: a record that is not committed is lost with the process), and 8 to 9 more to delete
what was sent; segments of checksummed records 2.2 as they are, of which a page half filled at every sync is most, and
1.4 with each record deflated; deleting is an unlink. Deflating costs 40 µs of CPU a message on the machine that a
message's way through MQTT costs 533 µs, and the same disk budget holds two to three times as many messages.
"""
