"""What the TOML may say, as frozen structs; read with all errors at once, each with its file, line and path.

Plug-in options are reached through the `options_of(room, kind)` that the caller passes in, so that this room knows no
plug-in. `load` reads a file, `build` takes the same tables from elsewhere (flags), `dump` gives them back.
"""

from edgerun.config.build import PLANNED, FindModel, OptionsOf, build, dump, load, split_credentials
from edgerun.config.governing import GovernorConfig, QuietConfig, SensorsConfig
from edgerun.config.mqtt import MqttConfig, SpoolConfig
from edgerun.config.rollout import RolloutConfig
from edgerun.config.security import SecurityConfig
from edgerun.config.source import parse_source
from edgerun.config.store import StoreConfig
from edgerun.config.structs import (
    Config,
    DeviceConfig,
    ModelConfig,
    RunOptions,
    SourceConfig,
    StreamConfig,
    default_device_id,
    default_threads,
)
from edgerun.config.watching import (
    ActivityConfig,
    BatchConfig,
    GateConfig,
    KeywordConfig,
    PrivacyConfig,
    ThenConfig,
    TrackConfig,
    ZoneConfig,
)
from edgerun.secret import Secret

__all__ = [
    "PLANNED",
    "ActivityConfig",
    "BatchConfig",
    "Config",
    "DeviceConfig",
    "FindModel",
    "GateConfig",
    "GovernorConfig",
    "KeywordConfig",
    "ModelConfig",
    "MqttConfig",
    "OptionsOf",
    "PrivacyConfig",
    "QuietConfig",
    "RolloutConfig",
    "RunOptions",
    "Secret",
    "SecurityConfig",
    "SensorsConfig",
    "SourceConfig",
    "SpoolConfig",
    "StoreConfig",
    "StreamConfig",
    "ThenConfig",
    "TrackConfig",
    "ZoneConfig",
    "build",
    "default_device_id",
    "default_threads",
    "dump",
    "load",
    "parse_source",
    "split_credentials",
]
