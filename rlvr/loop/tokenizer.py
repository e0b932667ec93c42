"""The tokenizer of a run, and whether what is asked goes with the model."""

from collections.abc import Sequence

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.types import Prompt


def load_tokenizer(config: RunConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of ``model.tokenizer``, by default the model's own."""
    path = config.model.tokenizer or config.model.path
    try:
        known = {"trust_remote_code": config.model.trust_remote_code}
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **known)
    except Exception as error:  # a damaged file makes the library raise anything
        told = f"model.tokenizer: cannot load '{path}': {type(error).__name__}: {error}"
        raise ConfigError(told) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what it makes of a folder without one
        raise ConfigError(
            f"model.tokenizer: '{path}' has no tokenizer, or an empty one. Save one there, or name "
            "another with model.tokenizer."
        )
    return tokenizer


def check_model(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> None:
    """Raise ConfigError for tokens that the model does not have, or more than it has places for."""
    path = config.model.path
    try:
        known = {"trust_remote_code": config.model.trust_remote_code}
        model = AutoConfig.from_pretrained(path, **known).get_text_config()
        size = model.vocab_size
    except Exception as error:
        told = f"model.path: cannot read the config.json of '{path}': {error}"
        raise ConfigError(told) from error
    places = getattr(model, "max_position_embeddings", None)
    rope = getattr(model, "rope_parameters", None) or {}
    longest = int(config.rollout.engine.get("max_model_len", 0))
    if places and longest > places and rope.get("rope_type", "default") == "default":
        raise ConfigError(
            f"rollout.engine.max_model_len: {longest} tokens (data.max_prompt_tokens="
            f"{config.data.max_prompt_tokens} and those of a response), but '{path}' has "
            f"{places} places for them (max_position_embeddings). Lower data.max_prompt_tokens, "
            "rollout.max_response_tokens or evaluation.max_response_tokens"
        )
    if len(tokenizer) <= size:
        return
    for prompt in prompts:
        if (token := max(prompt.token_ids)) >= size:
            raise ConfigError(
                f"model.tokenizer: prompt {prompt.id} has the token {token}, but the model "
                f"'{path}' has {size}: the tokenizer is another model's"
            )


def stop_token_ids(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end a response: the tokenizer's end of text and the model's own list."""
    ids = {tokenizer.eos_token_id}
    try:
        listed = GenerationConfig.from_pretrained(config.model.path).eos_token_id
        ids |= set(listed) if isinstance(listed, list) else {listed}
        return sorted(int(i) for i in ids if i is not None)
    except OSError:  # a model folder need not have one
        return [i for i in ids if i is not None]
    except (TypeError, ValueError, AttributeError) as error:
        told = f"model.path: generation_config.json of '{config.model.path}' is damaged: {error}"
        raise ConfigError(told) from error
