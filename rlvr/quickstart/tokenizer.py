"""A tokenizer of single characters, by default for arithmetic."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
_SPECIAL = [PAD, EOS, UNKNOWN]
_CHARACTERS = "0123456789+-*/=;:,.?<>(){} \n"

# A message is a line; the policy answers on the next one.
_CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"


def build_tokenizer(characters: str = _CHARACTERS) -> PreTrainedTokenizerFast:
    r"""One token a character, and one for ``\boxed{``; text outside the vocabulary is <unk>."""
    vocabulary = {token: i for i, token in enumerate([*_SPECIAL, "\\boxed{", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
