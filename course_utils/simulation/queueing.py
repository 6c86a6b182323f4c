"""What queueing theory says about one server: the simulator is held against it.

Requests arrive at random (Poisson, `rate` a second); one server takes `service` seconds for each,
in the order of arrival. In Kendall's notation M/G/1: M/M/1 if the service times are exponential,
M/D/1 if they are all alike.

Source: Kleinrock 1975, Queueing Systems I, sections 3.2 and 5.6.
"""


def mg1_wait(rate: float, service: float, variation: float) -> float:
    """Mean seconds in the queue before service begins (Pollaczek and Khinchine).

    `variation` is the standard deviation of the service times over their mean. Raises ValueError
    if more work arrives than the server can do: the queue then grows without end.
    """
    load = rate * service
    if rate <= 0 or service <= 0:
        raise ValueError(f"rate {rate} and service {service} must be above 0")
    if load >= 1:
        raise ValueError(f"load {load:.3f} is not below 1: lower the rate or the service time")
    return load * service / (1 - load) * (1 + variation**2) / 2


def mm1_wait(rate: float, service: float) -> float:
    """Mean wait (s) with exponential service times."""
    return mg1_wait(rate, service, 1.0)


def md1_wait(rate: float, service: float) -> float:
    """Mean wait (s) with service times that are all alike: half of M/M/1's."""
    return mg1_wait(rate, service, 0.0)
