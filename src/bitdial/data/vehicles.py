"""Passing vehicles as a microphone and a geophone hear them: a seeded stand-in for recordings that cannot be shared.

A vehicle is an engine on a chassis. The microphone hears the engine well and the chassis hardly; the geophone the other
way round; so neither tells all seven classes apart. Nothing here is measured: levels and frequencies are of the right
order and no more.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from math import tau
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bitdial.data.cache import cache_folder
from bitdial.data.segments import write_recording
from bitdial.errors import BitdialError

Signal = NDArray[np.float64]

AUDIO_RATE, SEISMIC_RATE = 8000, 100
WINDOW = 2.0
SEGMENTS = 10
"""Segments of a recording."""
RECORDINGS_OF_A_CLASS = {"train": 8, "val": 2, "test": 3}
_VERSION = 1
_STEP = 2.0**-15  # of a recorder with 16 bits


@dataclass(frozen=True)
class Engine:
    """What a microphone hears of an engine.

    Attributes:
        firing: range of its firing frequency in Hz.
        decay: how much weaker each harmonic of it is, in powers of its number.
        resonance: centre and width in Hz of the noise that it makes.
        noise: level of that noise, against 1 of the harmonics.
    """

    firing: tuple[float, float]
    decay: float
    resonance: tuple[float, float]
    noise: float


@dataclass(frozen=True)
class Chassis:
    """What a geophone hears of a chassis.

    Attributes:
        body: frequency in Hz at which the ground is shaken by wheels and springs.
        width: of that, in Hz.
        plates: metres between the plates of a track, which strike the ground one by one; 0 for wheels.
        weight: level on the ground.
        road: level of tyres or tracks in the air.
    """

    body: float
    width: float
    plates: float
    weight: float
    road: float


PETROL = Engine((70, 110), 0.9, (450, 150), 0.5)
DIESEL = Engine((45, 75), 0.6, (1500, 400), 1.0)
ELECTRIC = Engine((600, 950), 1.6, (2900, 250), 0.4)
LIGHT = Chassis(14.0, 3.0, 0.0, 1.0, 0.5)
HEAVY = Chassis(7.0, 2.0, 0.0, 1.6, 0.7)
TRACKED = Chassis(10.0, 4.0, 0.22, 2.0, 0.9)
VEHICLES = {
    "car": (PETROL, LIGHT),
    "van": (PETROL, HEAVY),
    "jeep": (DIESEL, LIGHT),
    "truck": (DIESEL, HEAVY),
    "carrier": (DIESEL, TRACKED),
    "electric-car": (ELECTRIC, LIGHT),
    "electric-bus": (ELECTRIC, HEAVY),
}
"""The seven classes, in the order of their numbers."""


@dataclass(frozen=True)
class Pass:
    """One recording: both signals, and distance in m and speed in m/s of each segment."""

    audio: Signal
    seismic: Signal
    distance: Signal
    speed: float


def passing(vehicle: str, random: np.random.Generator, segments: int = SEGMENTS) -> Pass:
    """One vehicle that passes the sensors; one time in four a second one of its kind follows.

    Its speed, engine speed, nearest distance and the moment of that are drawn, and so is how strong the wind blows.
    """
    engine, chassis = VEHICLES[vehicle]
    seconds = segments * WINDOW
    speed = random.uniform(4, 10)
    nearest, moment = random.uniform(8, 25), random.uniform(0.2, 0.8) * seconds
    audio, seismic = _wind(seconds, random), 0.05 * _noise(seconds, SEISMIC_RATE, 0, 50, random)
    for behind in [0.0] if random.random() > 0.25 else [0.0, random.uniform(3, 6)]:
        far = [
            np.hypot(nearest, speed * (_times(seconds, rate) - moment - behind)) for rate in (AUDIO_RATE, SEISMIC_RATE)
        ]
        audio += 12 / far[0] * _heard(engine, chassis, speed, seconds, random)
        # A wave along the ground spreads in two dimensions and is damped on its way.
        seismic += np.sqrt(12 / far[1]) * np.exp(-far[1] / 80) * _felt(engine, chassis, speed, seconds, random)
    middle = (np.arange(segments) + 0.5) * WINDOW
    return Pass(_recorded(0.05 * audio), _recorded(0.05 * seismic), np.hypot(nearest, speed * (middle - moment)), speed)


def _heard(engine: Engine, chassis: Chassis, speed: float, seconds: float, random: np.random.Generator) -> Signal:
    """A vehicle at 12 m, in the air."""
    times = _times(seconds, AUDIO_RATE)
    low, high = engine.firing
    firing = low + (high - low) * (speed - 4) / 6 * random.uniform(0.8, 1.2)
    wobble = 0.02 * firing * np.sin(tau * random.uniform(0.1, 0.3) * times + random.uniform(0, tau))
    turn = np.exp(1j * tau * np.cumsum(firing + wobble) / AUDIO_RATE)
    sound, power = np.zeros_like(times), np.ones_like(turn)
    for number in range(1, 1 + min(12, int(0.45 * AUDIO_RATE / high))):
        power = power * turn
        sound += number**-engine.decay * random.uniform(0.6, 1.4) * (power * np.exp(1j * random.uniform(0, tau))).real
    centre, width = engine.resonance
    hiss = engine.noise * _noise(seconds, AUDIO_RATE, centre, width, random)
    pulsing = 1 + 0.8 * turn.real  # an engine's noise comes in bursts, as it fires
    road = chassis.road * (speed / 8) ** 1.5 * _noise(seconds, AUDIO_RATE, 900, 400, random)
    whole: Signal = sound / 1.5 + hiss * pulsing + road
    return whole


def _felt(engine: Engine, chassis: Chassis, speed: float, seconds: float, random: np.random.Generator) -> Signal:
    """A vehicle at 12 m, in the ground."""
    times = _times(seconds, SEISMIC_RATE)
    ground = _noise(seconds, SEISMIC_RATE, chassis.body * random.uniform(0.9, 1.1), chassis.width, random)
    if chassis.plates:
        for number in (1, 2):
            phase = tau * number * speed / chassis.plates * times + random.uniform(0, tau)
            ground += np.sin(phase) / number
    if engine.decay < 1.5:  # a piston engine at idle shakes the ground a little, too
        ground += 0.15 * np.sin(tau * engine.firing[0] / 2 * times + random.uniform(0, tau))
    return chassis.weight * random.uniform(0.7, 1.4) * ground


def _wind(seconds: float, random: np.random.Generator) -> Signal:
    """Noise below 200 Hz in gusts, and a floor of other sounds."""
    gusts = 1 + np.sin(tau * random.uniform(0.05, 0.2) * _times(seconds, AUDIO_RATE) + random.uniform(0, tau))
    blowing = random.uniform(0.1, 1.0) * gusts * _noise(seconds, AUDIO_RATE, 0, 80, random)
    return blowing + 0.1 * random.standard_normal(len(gusts))


def _noise(seconds: float, rate: float, centre: float, width: float, random: np.random.Generator) -> Signal:
    """Noise of deviation 1 whose power lies around `centre`, a Gaussian of deviation `width`, in Hz."""
    count = round(seconds * rate)
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum *= np.exp(-((np.fft.rfftfreq(count, 1 / rate) - centre) ** 2) / (4 * width**2))
    found: Signal = np.fft.irfft(spectrum, count)
    found /= found.std()
    return found


def _times(seconds: float, rate: float) -> Signal:
    return np.arange(round(seconds * rate)) / rate


def _recorded(signal: Signal) -> Signal:
    steps: Signal = np.clip(np.rint(signal / _STEP), -32768, 32767)
    return steps * _STEP


def write_vehicles(folder: Path, seed: int = 0, recordings: dict[str, int] | None = None) -> None:
    """Write recordings of every class into a folder that is there: segments, index files, names of the classes.

    Parts share no recording. In a few segments one of the sensors is missing.

    Args:
        folder: where.
        seed: of all that is drawn.
        recordings: part -> recordings of each class.
    """
    (folder / "segments").mkdir()
    for part, count in (recordings or RECORDINGS_OF_A_CLASS).items():
        lines: list[str] = []
        for label, vehicle in enumerate(VEHICLES):
            for number in range(count):
                random = np.random.default_rng([seed, zlib.crc32(part.encode()), label, number])
                found = passing(vehicle, random)
                gone = {name: np.flatnonzero(random.random(SEGMENTS) < 0.03) for name in ("audio", "seismic")}
                gone["seismic"] = np.setdiff1d(gone["seismic"], gone["audio"])
                paths = write_recording(
                    folder / "segments",
                    f"{vehicle}-{part}{number:02}",
                    "road",
                    {
                        "audio": (torch.from_numpy(found.audio.astype(np.float32))[None], AUDIO_RATE),
                        "seismic": (torch.from_numpy(found.seismic.astype(np.float32))[None], SEISMIC_RATE),
                    },
                    [{"vehicle_type": label, "distance": far, "speed": found.speed} for far in found.distance.tolist()],
                    window=WINDOW,
                    missing={name: rows.tolist() for name, rows in gone.items()},
                )
                lines += [path.relative_to(folder).as_posix() for path in paths]
        (folder / f"{part}_index.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "class_names.txt").write_text("\n".join(VEHICLES) + "\n", encoding="utf-8")


def vehicles() -> Path:
    """The folder of generated recordings in the cache; written first where it is not there, whole or not at all.

    Raises:
        BitdialError: it cannot be written.
    """
    place = cache_folder() / f"vehicles-{_VERSION}"
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        try:
            write_vehicles(made)
            made.chmod(0o755)
            os.rename(made, place)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        if not place.is_dir():  # another process was quicker
            raise BitdialError(
                f"expected to write the recordings of vehicles to {place}, got {error.strerror or error}; give another "
                "folder as BITDIAL_DATA, or recordings of your own as data_path"
            ) from error
    return place
