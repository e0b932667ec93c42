"""The typed configuration of a run: what may be set, what it means, and what is impossible.

``conf/`` holds the YAML side. Every group of ``conf/train.yaml`` is one dataclass here, except
``advantage``, ``objective``, ``credit``, ``strength`` and ``correction``: those are open to methods
that this package does not know, so each method brings its own dataclass (see ``rlvr.algorithm``).

``rlvr.loop.validate`` reports every problem at once before any engine starts, each with its key
and what to change.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from rlvr.verifier_config import CodeConfig as CodeConfig
from rlvr.verifier_config import EnvironmentConfig, VerifierConfig
from rlvr.verifier_config import FormatConfig as FormatConfig
from rlvr.verifier_config import RewardConfig as RewardConfig

Dtype = StrEnum("Dtype", ["bfloat16", "float32"])
Template = StrEnum("Template", ["chat", "plain", "none"])
OnBadRow = StrEnum("OnBadRow", ["error", "drop"])
DataCurriculum = StrEnum("DataCurriculum", ["none", "pass_rate"])
Optimizer = StrEnum("Optimizer", ["adamw", "sgd"])
Schedule = StrEnum("Schedule", ["constant", "linear", "cosine"])
FeatureStore = StrEnum("FeatureStore", ["auto", "device", "host", "recompute"])
Offload = StrEnum("Offload", ["none", "during_rollout", "always"])
Placement = StrEnum("Placement", ["disaggregated", "colocated"])
BatchOrder = StrEnum("BatchOrder", ["prompt", "finished"])
Publish = StrEnum("Publish", ["merged", "adapter"])
Wandb = StrEnum("Wandb", ["online", "offline", "disabled"])


@dataclass
class ModelConfig:
    """The policy: any Hugging Face causal language model."""

    path: str = MISSING  # folder or hub name
    tokenizer: str | None = None  # default: the model's own
    dtype: Dtype = Dtype.bfloat16  # of the forward pass and of the rollout
    trust_remote_code: bool = False


@dataclass
class DataConfig:
    """Where prompts come from and how a row becomes token ids."""

    # .jsonl or .parquet files, or names of conf/catalogue.yaml (aime24, deepscaler); to train on,
    # also sources with weights: {dapo: {path: F, weight: 2}, own: {path: G}}
    train: Any = MISSING
    eval: list[str] = field(default_factory=list)
    problem_key: str | None = None  # default: found by name (problem, question, prompt, ...)
    answer_key: str | None = None  # default: found by name (answer, solution, reward_model, ...)
    template: Template = Template.chat  # chat: the tokenizer's; plain: `plain_template`
    plain_template: str = (
        "User:\n{problem}\nPlease reason step by step, and put your final answer within "
        "\\boxed{{}}.\n\nAssistant:\n"
    )
    system_prompt: str | None = None
    max_prompt_tokens: int = 2048
    on_bad_row: OnBadRow = OnBadRow.error  # drop: they are counted and reported
    shuffle: bool = True
    curriculum: DataCurriculum = DataCurriculum.none  # pass_rate: what teaches nothing now rests
    limit: int | None = None  # rows of each file, for a quick look
    verifier: str = "math"  # of rows that name none
    environment: str | None = None  # of rows that name none; null: one turn, and nobody replies


@dataclass
class RolloutConfig:
    """vLLM workers and how they sample."""

    workers: int | None = None  # default: what the cluster has room for
    tensor_parallel: int = 1
    group_size: int = 8  # responses a prompt
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    max_response_tokens: int = 1024  # in a conversation all turns, and what stands between them
    # Sequences that one engine decodes at once, at most: it runs as many of them as its KV cache
    # holds, about 80 of 20,000 tokens (8B, 80 GB); engine.kv_cache_dtype=fp8 holds twice as many
    max_running: int = 256
    memory_utilization: float = 0.85  # share of a GPU that the engine may take
    cpu_cache_gib: int = 1  # KV cache of an engine without a GPU
    enforce_eager: bool = False
    start_timeout_s: float = 900.0
    stall_timeout_s: float = 600.0  # an engine with work that reports nothing for so long is stuck
    max_replacements: int = 8  # of workers that failed, in the whole run; 0: the first ends it
    min_workers: int = 1  # with which a run goes on while there is no machine for the others
    engine: dict[str, Any] = field(default_factory=dict)  # further vLLM engine arguments


@dataclass
class LoraConfig:
    """Adapters of low rank, which alone are trained: the model's own weights stay as they are."""

    rank: int = 0  # 0: no adapters, all weights are trained
    alpha: float = 32.0  # an adapter adds alpha / rank · B A to its weight
    dropout: float = 0.0  # must be 0
    # Names of linear layers in the model's blocks, e.g. [q_proj, v_proj]; default: all of them
    targets: list[str] = field(default_factory=list)
    # What engines get: all weights, with the adapters merged, or the adapters, for vLLM's LoRA
    publish: Publish = Publish.merged


@dataclass
class LearnerConfig:
    """DeepSpeed workers and the optimizer."""

    ranks: int | None = None  # default: what the cluster has room for
    zero_stage: int = 3
    # Optimizer state in host memory: while engines have the GPUs (colocated), or always, where
    # the CPU then steps (and, under ZeRO-3, parameters are there too)
    offload: Offload = Offload.none
    gradient_checkpointing: bool = True
    sequence_parallel: int = 1  # ranks that share the tokens of every sequence: 1, 2, 4 or 8
    fused_kernels: bool | None = None  # liger-kernel's; default: on GPUs where it is installed
    tokens_per_micro_batch: int = 16384  # of the update
    tokens_per_scoring_batch: int = 32768  # of passes without a gradient
    logits_mib: int = 256  # size of the one logits chunk that exists at a time
    optimizer: Optimizer = Optimizer.adamw
    lr: float = 1e-6
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0  # optimizer steps, as the schedule's
    schedule: Schedule = Schedule.constant  # after them; the others fall to min_lr
    min_lr: float = 0.0
    max_grad_norm: float = 1.0  # 0: no clipping
    entropy_bonus: float = 0.0
    lora: LoraConfig = field(default_factory=LoraConfig)
    features: FeatureStore = FeatureStore.auto  # where credit features wait
    init_timeout_s: float = 900.0
    step_timeout_s: float = 7200.0


@dataclass
class WeightsConfig:
    """How a new policy version reaches the rollout workers."""

    backend: str = "auto"  # auto | nccl | ipc | object_store, or of another package
    timeout_s: float = 300.0


@dataclass
class ClusterConfig:
    """The machines. ``gpus_per_node: 0`` is the CPU profile."""

    address: str | None = None  # of a running Ray cluster; default: RAY_ADDRESS or start one here
    nodes: int = 1
    gpus_per_node: int = 8
    placement: Placement = Placement.disaggregated
    # How long a machine that is gone, or another in its place, is waited for before the learner
    # starts again without it, or the run ends
    rejoin_s: float = 60.0
    torch_threads: int | None = None  # of each rank, and engine on a CPU; default: all cores

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass
class TrainConfig:
    """The size and length of the run."""

    steps: int = MISSING
    prompts_per_step: int = 128
    prompts_per_mini_batch: int | None = None  # default: one optimizer step per rollout batch
    epochs_per_step: int = 1  # passes over each rollout batch
    dynamic_sampling: bool = False  # sample until the batch is full of groups with spread
    max_sampling_rounds: int = 20  # times so many prompts for one batch, before it gives up
    max_restarts: int = 3  # of the learner, from the last checkpoint, when a rank dies
    max_staleness: int = 0  # 0: synchronous; else versions that rollout may lag behind
    batch_order: BatchOrder = BatchOrder.prompt  # finished: groups overtake longer ones
    overlong_filter: bool = False  # truncated responses carry no gradient
    overlong_buffer: int = 0  # DAPO's soft penalty starts so many tokens before the limit; 0: off
    overlong_factor: float = 1.0
    seed: int = 0
    output_dir: str = "outputs/${now:%Y-%m-%d_%H-%M-%S}"
    max_bad_updates: int = 10  # skipped in a row, as not finite, before the run ends; 0: any
    checkpoint_every: int = 0  # steps; 0: never
    # Where they go: a folder, or what fsspec has a name for, such as s3://bucket/run. All nodes
    # write there. Default: checkpoints/ in output_dir
    checkpoint_dir: str | None = None
    keep_checkpoints: int = 2  # the newest
    keep_best: str | None = None  # and that of the highest evaluation/greedy/accuracy, or another
    resume: str | None = None  # a run or a checkpoint; "auto": this run's own, if there is one


@dataclass
class EvaluationConfig:
    """Accuracy on ``data.eval``, before, during and after training."""

    every: int = 0  # steps; 0: never
    at_start: bool = False
    at_end: bool = False
    greedy: bool = True
    samples: int = 0  # responses a prompt for avg@k; 0: off
    temperature: float = 1.0
    top_p: float = 1.0
    max_response_tokens: int | None = None  # default: rollout.max_response_tokens
    limit: int | None = None
    audit: int = 0  # continuations for an audit of the credit, each time; 0: off


@dataclass
class AuditConfig:
    """Credit against what single tokens do to the outcome (``rlvr audit``)."""

    continuations: int = 20_000  # that may be sampled in all
    samples: int = 64  # of them from every prefix
    positions: int = 0  # of each response, evenly spread; 0: every token


@dataclass
class GuardsConfig:
    """Limits of a step's metrics beyond which a run warns; null: no warning."""

    entropy_collapse: float | None = 0.05  # update/entropy, nats
    kl_blow_up: float | None = 0.1  # policy/kl_old, nats
    reference_kl: float | None = 5.0  # policy/kl_reference, nats
    length_collapse: float | None = 0.3  # of length/mean in the run's first steps
    equal_rewards: float | None = 0.0  # groups/with_spread
    verifier_errors: float | None = 0.05  # verifier/error, a share
    verifier_timeouts: float | None = 0.05  # verifier/timeout, a share
    rising_mismatch: float | None = 10.0  # times mismatch/kl in the run's first steps


@dataclass
class TelemetryConfig:
    """What a run leaves behind and what it shows."""

    wandb: Wandb = Wandb.offline
    # Further sinks by name, or with options: tensorboard, {name: my_sink, url: ...}
    sinks: list[Any] = field(default_factory=list)
    project: str = "rlvr"
    name: str | None = None
    log_responses: bool = True  # every response with its verdict, in Parquet
    progress: bool = True
    worker_logs: bool = False  # show what the actors print
    # When a stage of a step is late, and all workers' stacks are written; 0: never. Default: 5
    # times its median, 300 at least, and 1800 in the first step
    late_stage_s: float | None = None
    guards: GuardsConfig = field(default_factory=GuardsConfig)


@dataclass
class ShadowConfig:
    """Credit methods beside the one in use: computed on the same features, compared, not used."""

    # By name, or with options: [thr, {name: oar_p, stride: 4}]
    credits: list[Any] = field(default_factory=list)


@dataclass
class RunConfig:
    """One run, whole. The untyped nodes are resolved by the registries of ``rlvr.algorithm``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    advantage: dict[str, Any] = field(default_factory=lambda: {"name": "grpo"})
    objective: dict[str, Any] = field(default_factory=lambda: {"name": "grpo"})
    credit: dict[str, Any] = field(default_factory=lambda: {"name": "uniform"})
    strength: dict[str, Any] = field(default_factory=lambda: {"name": "constant"})
    correction: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    shadow: ShadowConfig = field(default_factory=ShadowConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
