class Configuration:
    heartbeat_interval: float
    step_down_interval: float
    election_interval: tuple[float, float]

config: Configuration

def configure(kwargs: dict[str, float]) -> None: ...
