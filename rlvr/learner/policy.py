"""The policy as the learner sees it: a Hugging Face causal LM on packed sequences."""

from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.initialization import no_init_weights

from rlvr.config import LearnerConfig, ModelConfig
from rlvr.learner.attention import NAME as PACKED_ATTENTION
from rlvr.learner.attention import with_prefixes
from rlvr.learner.cost import Flops
from rlvr.learner.engine import sharded
from rlvr.learner.fused_kernels import fuse
from rlvr.learner.logprob import LogProbHead, TokenStatistics
from rlvr.learner.lora import add_adapters
from rlvr.learner.sequence_parallel import SequenceParallel
from rlvr.learner.weight_files import WeightFiles
from rlvr.types import Packing

# Options by which some architectures change their logits after the head. Ignoring one would
# train on log-probabilities that are not the policy's.
_LOGIT_TRANSFORMS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}


class Policy(nn.Module):
    """Hidden states of packed sequences, and log-probabilities from them.

    The wrapped model keeps its parameter names; only ``lm_head`` is replaced by a head that
    works in chunks. Ranks that share their sequences pass the same arguments and get the same
    results; each of them computes for its part of the tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        temperature: float,
        logits_mib: int,
        sequence: SequenceParallel | None = None,
    ) -> None:
        super().__init__()
        self.sequence = sequence or SequenceParallel()
        _refuse_unfaithful(model.config)
        self.flops = Flops.of_model(model)
        model.lm_head = LogProbHead(model.lm_head, temperature, logits_mib)
        self.model = model

    @property
    def head(self) -> LogProbHead:
        """The chunked head; ``head.weight`` is the model's own parameter."""
        return self.model.lm_head

    def forward(
        self, packing: Packing, predict_index: Int[Tensor, "N"], target: Int[Tensor, "N"]
    ) -> tuple[TokenStatistics, Float[Tensor, "N d"]]:
        """Statistics of the tokens ``target``, and the states at ``predict_index`` before them."""
        own, place = self.sequence.places(predict_index, packing.num_tokens)
        hidden = self._states(packing)[place]
        statistics = torch.stack(self.head(hidden, target[own]), 1)
        count = len(predict_index)
        logp, entropy, log_normaliser = self.sequence.joined(statistics, own, count).unbind(1)
        return (logp, entropy, log_normaliser.detach()), self.sequence.joined(hidden, own, count)

    def hidden(
        self, packing: Packing, embeddings: Float[Tensor, "T d"] | None = None
    ) -> Float[Tensor, "T d"]:
        """States after the final norm, from the tokens or from ``embeddings`` in their place."""
        return self.sequence.whole(self._states(packing, embeddings), packing.num_tokens)

    def _states(
        self, packing: Packing, embeddings: Float[Tensor, "T d"] | None = None
    ) -> Float[Tensor, "t d"]:
        """``hidden`` of this rank's part of the tokens."""
        keys, key_index = packing.cu_seqlens, None
        if packing.prefix is not None:
            key_index, keys = with_prefixes(packing.cu_seqlens, packing.prefix)
        tokens = {"input_ids": self.sequence.own(packing.input_ids)[None]}
        if embeddings is not None:
            tokens = {"inputs_embeds": self.sequence.lent(embeddings)[None]}
        out = self.model.base_model(  # the transformer without its head
            **tokens,
            position_ids=self.sequence.own(packing.position_ids)[None],
            use_cache=False,
            cu_seq_lens_q=packing.cu_seqlens,
            cu_seq_lens_k=keys,
            max_length_q=int(packing.sequence_length.max()),
            max_length_k=int(keys.diff().max()),
            key_index=key_index,
            sequence_parallel=self.sequence if self.sequence.size > 1 else None,
            num_tokens=packing.num_tokens,
        )
        return out.last_hidden_state[0]

    def embed(self, input_ids: Int[Tensor, "T"]) -> Float[Tensor, "T d"]:
        return self.model.get_input_embeddings()(input_ids)


def load_policy(
    model: ModelConfig,
    learner: LearnerConfig,
    temperature: float,
    device: torch.device,
    sequence: SequenceParallel | None = None,
    seed: int = 0,
) -> Policy:
    """Load ``model.path`` for training: no dropout, packed attention, chunked head.

    New adapters are those of ``seed``, on every rank alike.
    """
    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    for key, value in vars(config).items():
        if "dropout" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    options = {
        "dtype": getattr(torch, model.dtype),
        "attn_implementation": PACKED_ATTENTION,
        "trust_remote_code": model.trust_remote_code,
    }
    if _fills_shards(config, learner):
        with no_init_weights(), sharded(learner, model):
            network = AutoModelForCausalLM.from_config(config, **options)
        network.tie_weights()
        WeightFiles(model.path).fill(network)
        with suppress(OSError):  # not every model has one; it is saved with the weights
            network.generation_config = GenerationConfig.from_pretrained(model.path)
    else:
        network = AutoModelForCausalLM.from_pretrained(model.path, config=config, **options)
    fuse(network, learner.fused_kernels, device)
    if learner.lora.rank:
        add_adapters(network, learner.lora, seed)
    if learner.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    # Checkpointing is active in train mode alone; with every dropout at 0 the mode changes
    # nothing else, so scoring and updating compute the same function.
    network.train()
    return Policy(network, temperature, learner.logits_mib, sequence).to(device)


def save_policy(state: dict[str, Tensor], policy: Policy, folder: Path, tokenizer: str) -> None:
    """Write an ordinary Hugging Face folder: weights, config and tokenizer."""
    from transformers import AutoTokenizer

    policy.model.save_pretrained(folder, state_dict=state)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def _fills_shards(config: PretrainedConfig, learner: LearnerConfig) -> bool:
    """Whether no rank shall hold the whole model, not even while loading.

    Where files and model name the weights differently (mixtures of experts), only transformers
    can convert them, and does so for whole models.
    """
    same_names = get_checkpoint_conversion_mapping(config.model_type) is None
    return learner.zero_stage == 3 and torch.distributed.is_initialized() and same_names


def _refuse_unfaithful(config: PretrainedConfig) -> None:
    for key, neutral in _LOGIT_TRANSFORMS.items():
        if getattr(config, key, neutral) not in (neutral, None):
            raise ValueError(
                f"the model's config sets {key}={getattr(config, key)}, which changes its logits "
                "after lm_head; this learner does not implement it, so its log-probabilities "
                "would be wrong"
            )
