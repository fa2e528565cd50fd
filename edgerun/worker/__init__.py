"""The other end of a remote model: requests of other devices in, answers out.

`Answerer` is what is done with one request, without a network; `Service` the connection, the hand-over and the end;
`Renewing` has it serve with another version of its model.
"""

from edgerun.worker.answering import Answerer
from edgerun.worker.renewing import Renewing
from edgerun.worker.serving import Service, ServiceOptions, ServiceStats

__all__ = ["Answerer", "Renewing", "Service", "ServiceOptions", "ServiceStats"]
