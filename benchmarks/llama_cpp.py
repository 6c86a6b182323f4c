"""llama.cpp as a peer: seconds per token that it reports itself, through `xllamacpp`.

Each file gets a server in a process of its own. In ours, its OpenMP threads would count as ours
too: with more threads than cores, libgomp lets all of them sleep between products, and both sides
lose half their speed.

Needs the oracles' environment (`make oracles`), ours or the one beside it; without it `peers` gives
nothing. SmolLM2's file is Q4_1; its Q8_0 twin is written here from the same weights by `gguf`.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from course_utils.data.assets import asset_path

ORACLES = Path(__file__).resolve().parents[1] / ".venv-oracles" / "bin" / "python"
KINDS = ("Q4_1", "Q8_0")


class LlamaCpp:
    """A llama.cpp server for SmolLM2 in one type, with so many slots, until `stop`."""

    def __init__(self, python: str, kind: str, threads: int, slots: int = 1):
        numbers = [str(threads), str(slots)]
        command = [python, __file__, str(asset_path("smollm2")), kind, *numbers]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True
        )
        lines = iter(self.process.stdout.readline, "")
        self.address = next(line.split()[1] for line in lines if line.startswith("address "))
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def seconds_per_token(self, ids: list[int], new_tokens: int) -> float:
        """Of greedy decoding after a prompt, without the prompt's own time."""
        return self._ask(ids, new_tokens)["timings"]["predicted_per_token_ms"] / 1000

    def tokens_per_second(self, prompts: Sequence[list[int]], new_tokens: int) -> float:
        """New tokens of all prompts, asked at the same time, by the seconds until the last one."""
        began = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = list(pool.map(lambda ids: self._ask(ids, new_tokens), prompts))
        assert all(answer["tokens_predicted"] == new_tokens for answer in answers)
        return len(prompts) * new_tokens / (time.perf_counter() - began)

    def _ask(self, ids: list[int], new_tokens: int) -> dict:
        question = {"prompt": ids, "n_predict": new_tokens, "temperature": 0.0}
        question |= {"cache_prompt": False, "ignore_eos": True}
        request = urllib.request.Request(
            self.address + "/completion",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        return json.loads(self.opener.open(request, timeout=300).read())

    def stop(self) -> None:
        self.process.stdin.close()  # the server waits for this
        self.process.wait(timeout=30)


def peers(threads: int, kinds: Sequence[str] = KINDS, slots: int = 1) -> dict[str, LlamaCpp]:
    """A server for each type of weights; nothing where llama.cpp is not installed."""
    here = importlib.util.find_spec("xllamacpp") is not None
    if not here and not ORACLES.exists():
        return {}
    python = sys.executable if here else str(ORACLES)
    return {f"llama.cpp {kind}": LlamaCpp(python, kind, threads, slots) for kind in kinds}


def serve(source: Path, kind: str, threads: int, slots: int) -> None:
    """Serve until the input ends; the address is printed first."""
    import gguf
    import xllamacpp

    with tempfile.TemporaryDirectory() as folder:
        path = source
        if kind == "Q8_0":
            path = Path(folder) / "q8_0.gguf"
            write_q8_0(gguf, source, path)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 1024 * slots, slots, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        server = xllamacpp.Server(params)
        print("\naddress", server.listening_address, flush=True)
        sys.stdin.read()


def write_q8_0(gguf, source: Path, target: Path) -> None:
    """Copy a GGUF file with its Q4_1 tensors rounded to Q8_0."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, inner = field.types[0], field.types[-1]
            inner = inner if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    old, new = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind == old:
            data, kind = gguf.quants.quantize(gguf.quants.dequantize(data, old), new), new
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
