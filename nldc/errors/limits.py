"""NLD130 to NLD139: what a step may cost."""

from nldc.errors.entry import Entry

ENTRIES = (
    Entry(
        "NLD130",
        "a step that takes more than its limits",
        "`limits` bound what a step may take: `launches`, the calls that start work on the device "
        "(a forward, a head or an op each is one, whatever kernels the backbone makes of it); "
        "`host_waits`, where the host waits for the device; `device_waits`, where the device waits "
        "for the host in the midst of a step. Loops count with as many rounds as they may take. "
        "`nldc explain` prints the counts of every step, and `nldc compile --max-launches` and its "
        "like bound a strategy that has no limits of its own.",
        "limits: {launches: 40, host_waits: 1}",
        "limits: {launches: 200, host_waits: 17, device_waits: 16}",
    ),
)
