"""One vLLM engine: token ids in, token ids with log-probabilities out, new weights in between."""

import os
import time
from typing import Any

import numpy as np
import ray
import torch

from rlvr.config import Publish, RunConfig
from rlvr.rollout.adapters import Adapters
from rlvr.rollout.request import MOST_CHOICES, Request
from rlvr.rollout.whole_weights import WholeWeights
from rlvr.types import Response, TokenChoices


class Engine:
    """vLLM's synchronous engine, stepped by its owner.

    Control calls happen between two steps, so a weight update sees no step half done and every
    token knows the version that sampled it. Nothing is detokenised here.
    """

    def __init__(self, config: RunConfig) -> None:
        # The engine core must live in this process: control calls go in between its steps.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import EngineArgs, LLMEngine

        self._policy = _policy(config)
        self._engine = LLMEngine.from_engine_args(EngineArgs(**engine_arguments(config)))
        self._engine.set_weight_version("0")
        self._vocabulary = self._engine.model_config.get_vocab_size()
        self._updating = False  # between the first part of a version and its end
        self._has_weights = True

    @property
    def busy(self) -> bool:
        """Whether there is a step to take: none while its weights are those of no version."""
        return not self._updating and self._engine.has_unfinished_requests()

    @property
    def running(self) -> int:
        return self._engine.get_num_unfinished_requests()

    def add(self, request: Request) -> None:
        """Queue a request. Raises ValueError for one that can never run (too long)."""
        if not self._has_weights or self._engine.is_sleeping():
            raise RuntimeError("asked to sample while it sleeps or has no weights")
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        s, choices = request.sampling, request.choices
        named = None if isinstance(choices, int) else list(choices)
        params = SamplingParams(
            temperature=s.temperature,
            top_p=s.top_p,
            top_k=s.top_k,
            max_tokens=s.max_tokens,
            seed=request.seed if s.temperature > 0 else None,
            stop_token_ids=list(s.stop_token_ids),
            logprobs=min(choices, self._vocabulary) if isinstance(choices, int) else None,
            logprob_token_ids=named,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=list(request.token_ids))
        self._engine.add_request(request.id, prompt, params, lora_request=self._policy.request)

    def step(self) -> list[tuple[str, Response]]:
        return [
            (output.request_id, _response(output))
            for output in self._engine.step()
            if output.finished
        ]

    def abort(self, ids: list[str]) -> None:
        self._engine.abort_request(ids)

    def init_weight_transfer(self, info: dict[str, Any]) -> None:
        self._policy.begin(self._engine, info)

    def update_weights(self, info: dict[str, Any], until: float) -> None:
        """Load a part of the next version; no step is taken from here to ``finish_update``.

        After ``until``, in seconds since the epoch, the publish has been given up and nothing is
        loaded.
        """
        if time.time() > until:
            raise TimeoutError("a version came too late: its publish was given up")
        first, self._updating = not self._updating, False  # if this part fails, vLLM forgets all
        self._policy.load(self._engine, _arrived(info), first)
        self._updating = True

    def finish_update(self, version: int) -> None:
        """Serve ``version``; running requests go on with it from their next token.

        Their cached keys and values, every cached prefix and what a batch in flight has sampled
        belong to the old version: they are dropped and recomputed.
        """
        self._policy.finish(self._engine)
        self._updating = False
        self._engine.reset_prefix_cache(reset_running_requests=True)
        self._engine.set_weight_version(str(version))
        self._has_weights = True

    def sleep(self) -> None:
        """Give all of the GPU's memory away: weights and KV cache are gone.

        A CPU keeps them, but nothing is sampled there either before the next version has come.
        """
        if self.running:
            raise RuntimeError(f"told to sleep with {self.running} requests unfinished")
        self._engine.sleep(level=2)
        self._has_weights = False

    def wake_up(self, tag: str) -> None:
        """Take memory back, for the ``weights`` first, then for the ``kv_cache``; both empty."""
        self._engine.collective_rpc(_empty_cache)
        self._engine.wake_up([tag])


def _empty_cache(worker: Any) -> None:
    torch.cuda.empty_cache()


def _arrived(info: dict[str, Any]) -> dict[str, Any]:
    """``info`` with what Ray's references stand for; an engine's further processes have no Ray."""
    return {
        key: ray.get(value)
        if isinstance(value, list) and any(isinstance(v, ray.ObjectRef) for v in value)
        else value
        for key, value in info.items()
    }


def _policy(config: RunConfig) -> WholeWeights | Adapters:
    """How versions of the policy come into vLLM."""
    lora = config.learner.lora
    adapters = lora.publish == Publish.adapter
    return Adapters(lora) if adapters else WholeWeights(config.weights.backend)


def engine_arguments(config: RunConfig) -> dict[str, Any]:
    """The vLLM engine arguments of a rollout worker; ``rollout.engine`` overrides any of them."""
    model, rollout, gpu = config.model, config.rollout, config.cluster.gpus > 0
    arguments: dict[str, Any] = {
        "model": model.path,
        "tokenizer": model.tokenizer or model.path,
        "skip_tokenizer_init": True,
        "trust_remote_code": model.trust_remote_code,
        "dtype": str(model.dtype),
        "tensor_parallel_size": rollout.tensor_parallel,
        # Inside of a placement group vLLM would ask Ray for a bundle a GPU.
        "distributed_executor_backend": "mp" if rollout.tensor_parallel > 1 else None,
        "max_num_seqs": rollout.max_running,
        "logprobs_mode": "processed_logprobs",  # after temperature, as the learner computes them
        "max_logprobs": MOST_CHOICES,
        "enable_prefix_caching": True,
        "enforce_eager": rollout.enforce_eager or not gpu,
        "disable_log_stats": True,
        **_policy(config).engine_arguments(),
    }
    if gpu:
        arguments["gpu_memory_utilization"] = rollout.memory_utilization
        arguments["enable_sleep_mode"] = config.cluster.placement == "colocated"
    else:
        # A prefill in portions rewinds a seeded request's generator, which vLLM cannot do on a
        # CPU: prompts are prefilled whole.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(8192, rollout.engine.get("max_model_len", 0))
    return {**arguments, **rollout.engine}


def _response(output: Any) -> Response:
    completion = output.outputs[0]
    ids = np.asarray(completion.token_ids, dtype=np.int32)
    flat = completion.logprobs  # the sampled token of every position, then the choices
    known = np.asarray(flat.token_ids, dtype=np.int32), np.asarray(flat.logprobs, dtype=np.float32)
    logp = known[1][np.asarray(flat.start_indices, dtype=np.int64)]
    first = slice(1, flat.end_indices[0] if len(ids) else 1)
    choices = TokenChoices(*(x[first] for x in known)) if first.stop > 1 else None
    version = np.zeros(len(ids), dtype=np.int32)
    for span in completion.weight_versions or []:
        version[span.start : span.end] = int(span.version)
    return Response(ids, logp, version, str(completion.finish_reason), choices)
