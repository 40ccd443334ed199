"""Settings of data and run, shared by pre-training and fine-tuning, and the two whole configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from audio_ssl.config.adapt import AdaptConfig
from audio_ssl.config.augment import AugmentConfig
from audio_ssl.config.duration import Duration
from audio_ssl.config.guard import GuardConfig
from audio_ssl.config.mixture import MixtureConfig
from audio_ssl.config.model import ModelConfig
from audio_ssl.config.objective import OF_PRESETS, Wav2Vec2Config
from audio_ssl.config.online_probe import OnlineProbeConfig
from audio_ssl.config.optim import OptimConfig
from audio_ssl.config.preflight import PreflightConfig
from audio_ssl.config.section import Count, NonNegative, NonNegativeCount, Positive, Probability, Rate, Section
from audio_ssl.config.text import TextRules, VocabularyConfig, with_text_rules


class DataConfig(Section):
    """Which audio, in which batches."""

    train: tuple[Path, ...] = Field(min_length=1)
    """Manifests to train on."""
    valid: tuple[Path, ...] = ()
    min_s: NonNegative = 0.5
    """Shorter utterances are left out, counted and named."""
    max_s: Positive = 20.0
    """Longer ones are cropped (pre-training: at random; validation: at the start)."""
    batch_s: Positive = 60.0
    """Seconds of audio that one update sees, over all ranks and accumulated micro-batches."""
    micro_batch_s: Positive = 60.0
    """Most seconds that one forward pass holds on one rank, padding included: what memory must bear."""
    quadratic_s: Positive | None = None
    """T seconds count as T + T² / this in a forward pass, as attention's cost grows with the square; None: as T."""
    num_workers: NonNegativeCount | Literal["auto"] = "auto"
    """Threads that read and decode: a rank's share of the processors, 8 at most; 0 reads in the training thread."""
    engine: Literal["auto", "fairseq2", "threads"] = "auto"
    max_bad_share: Probability = 0.05
    """The run stops when more than this share of the rows asked for cannot be read."""
    mixture: MixtureConfig | None = None
    """How much of an epoch each manifest or language is; None: every row once."""
    cache_dir: Path | None = None
    """Where files from elsewhere (``s3://``, ``https://`` ...) are kept; the environment variable AUDIO_SSL_CACHE_DIR
    says it otherwise, or it is ``audio_ssl/remote`` in the user's cache folder."""
    cache_gib: Positive | None = None
    """Most GiB that are kept there; AUDIO_SSL_CACHE_GIB says it otherwise, or it is 20."""

    @model_validator(mode="after")
    def _check_order(self) -> DataConfig:
        faults = []
        if self.min_s >= self.max_s:
            faults.append(f"min_s must be < max_s, got {self.min_s} and {self.max_s}")
        cost_s = self.max_s if self.quadratic_s is None else self.max_s + self.max_s**2 / self.quadratic_s
        if cost_s > self.micro_batch_s:
            counted = "" if self.quadratic_s is None else f", which counts as {cost_s:g} (quadratic_s)"
            faults.append(f"max_s must be <= micro_batch_s, got {self.max_s}{counted} and {self.micro_batch_s}")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class RunConfig(Section):
    """The run folder, its length, its rhythm and its machine."""

    dir: Path
    seed: int = Field(default=1, ge=0)
    one_of: ClassVar[tuple[str, ...]] = ("num_updates", "audio_hours", "budget")
    num_updates: Count = 400_000
    """Length in updates; in its place one of the two that follow may be given."""
    audio_hours: Positive | None = None
    """Length in hours of audio heard, repeated passes included."""
    budget: Duration | None = None
    """Length in wall time, such as ``2h``, ``90m`` or ``1d12h``: ``num_updates`` is fitted to the measured speed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto``: bf16 where the hardware has it, else fp32; ``fp16`` is for GPUs without bf16."""
    compile: bool = False
    """Let torch.compile prepare the transformer blocks; on a GPU only: a CPU has kernels of its own."""
    checkpoint_activations: bool = False
    """Keep only the input of each transformer block and compute the rest again for the gradients: less memory, and
    about a third more time in the blocks."""
    log_every: Count = 20
    """Updates between lines of metrics; the only updates that wait for the device."""
    validate_every: Count = 1000
    save_every: Count = 1000
    keep_last: Count = 2
    """Of the checkpoints, how many of the newest are kept beside the best."""
    keep_every: Count | None = None
    """Also keep, for good, the checkpoint of every so many updates; a multiple of ``save_every``."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: each holds all weights (DDP), or a share of weights and optimizer (FSDP2)."""
    patience: Count | None = None
    """Validations in a row without a better result that end the run; None: it goes through."""
    tensorboard: bool = False
    wandb_project: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_length(cls, values: Any) -> Any:
        given = [f"run.{key} = {values[key]!r}" for key in cls.one_of if values.get(key) is not None]
        if len(given) > 1:
            raise ValueError(
                f"exactly one of {', '.join(f'run.{key}' for key in cls.one_of)} must say how long the run is, got "
                f"{' and '.join(given)}"
            )
        return values

    @model_serializer(mode="wrap")
    def _leave_fitted_length_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is written can be read again: beside another length ``num_updates`` was not given, but follows."""
        values: dict[str, Any] = dump(self)
        if self.audio_hours is not None or self.budget is not None:
            del values["num_updates"]
        return values

    @model_validator(mode="after")
    def _check_keeping(self) -> RunConfig:
        if self.keep_every is not None and self.keep_every % self.save_every:
            raise ValueError(
                f"keep_every must be a multiple of save_every, got {self.keep_every} and {self.save_every}"
            )
        return self


class PretrainConfig(Section):
    """``audio-ssl pretrain``: everything that decides a pre-training run.

    ``model.preset`` also fills the settings of ``objective`` that are not given.
    """

    model: ModelConfig = ModelConfig()
    objective: Wav2Vec2Config = Wav2Vec2Config()
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    guard: GuardConfig = GuardConfig()
    probe: OnlineProbeConfig | None = None
    """What the encoder is worth on tasks while it learns; None: nobody looks."""
    run: RunConfig

    @model_validator(mode="before")
    @classmethod
    def _fill_objective_from_preset(cls, values: Any) -> Any:
        given = values.get("objective", {}) if isinstance(values, dict) else None
        model = values.get("model", {}) if isinstance(values, dict) else None
        if isinstance(given, dict) and isinstance(model, dict):
            fixed = {"feature_penalty_weight": 0.0} if model.get("front_end") == "mel" else {}
            return {**values, "objective": {**OF_PRESETS.get(str(model.get("preset")), {}), **fixed, **given}}
        return values

    @model_validator(mode="after")
    def _check_parts_together(self) -> PretrainConfig:
        faults, objective = _faults_of_patience(self.run, self.data), self.objective
        dim, groups = self.model.dim, objective.decoder_groups
        if self.probe is not None and self.probe.layer != "all" and self.probe.layer > self.model.num_layers:
            faults.append(
                f"probe.layer must be 0 to model.num_layers = {self.model.num_layers}, or 'all', got {self.probe.layer}"
            )
        if self.model.adapter_dim:
            faults.append(
                f"model.adapter_dim must be 0, got {self.model.adapter_dim}: adapters are for fine-tuning a network "
                "that is there already (adapt.adapter_dim)"
            )
        if self.model.front_end == "mel" and objective.feature_penalty_weight > 0:
            faults.append(
                "objective.feature_penalty_weight must be 0 where model.front_end is 'mel', got "
                f"{objective.feature_penalty_weight:g}: latents that do not learn cannot be held small"
            )
        if self.model.front_end != "mel" and objective.random_projection_weight > 0:
            faults.append(
                f"objective.random_projection_weight must be 0 where model.front_end is {self.model.front_end!r}, got "
                f"{objective.random_projection_weight:g}: codes of latents that learn would move"
            )
        if objective.encode == "visible":
            if dim % groups:
                faults.append(f"model.dim must be a multiple of objective.decoder_groups, got {dim} and {groups}")
            if self.model.context_stride > 1:
                faults.append(
                    "model.context_stride must be 1 where objective.encode is 'visible', got "
                    f"{self.model.context_stride}: a pooled frame would be both visible and masked"
                )
            if self.model.block_conv_kernel:
                faults.append(
                    "model.block_conv_kernel must be 0 where objective.encode is 'visible', got "
                    f"{self.model.block_conv_kernel}: the blocks see visible frames alone, which are no neighbours"
                )
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _faults_of_patience(run: RunConfig, data: DataConfig) -> list[str]:
    if run.patience is None or data.valid:
        return []
    return [f"run.patience counts validations: data.valid must be given with it, got run.patience = {run.patience}"]


class CTCConfig(Section):
    """The recogniser's head, what learns when, and its masks (wav2vec 2.0 section 4.3, fairseq's fine-tuning files)."""

    freeze_feature_encoder: bool | Count = True
    """Whether the front end stays as it is: always, never, or for so many updates."""
    freeze_encoder_updates: NonNegativeCount = 0
    """Updates in which only the head learns."""
    freeze_bottom_blocks: NonNegativeCount = 0
    """Transformer blocks, from the first, that never learn; nor does then anything below them."""
    layer_lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each transformer block to the one below; the top block has it once, what lies
    below the blocks once more than block 1. 1: one rate for the whole encoder."""
    head_lr_scale: Positive = 1.0
    """The head's learning rate as a multiple of ``optim.lr``: it starts from nothing, the encoder does not."""
    intermediate_layers: tuple[Count, ...] = ()
    """Blocks after which the same head takes a CTC loss too (intermediate CTC); the middle one is the paper's."""
    intermediate_weight: Rate = 0.3
    """Of the mean of these losses in the whole; the last layer has the rest. Self-conditioned CTC was shown at 0.5."""
    self_conditioned: bool = False
    """Tell the blocks above what the head makes of ``intermediate_layers``, in training and in use."""
    final_dropout: Rate = 0.0
    mask_prob: Probability = 0.65
    mask_span_frames: Count = 10
    channel_mask_prob: Probability = 0.25
    channel_mask_span: Count = 64
    old_head: Literal["grow", "fit", "new"] = "grow"
    """What becomes of the head where ``init_from`` is a recogniser. ``grow``: all its symbols stay, new characters come
    at the end; ``fit``: the symbols of ``data.train`` alone, with the weights of those it has; with either its text
    rules stay, too. ``new``: a head from nothing."""

    @model_validator(mode="after")
    def _check_layers(self) -> CTCConfig:
        layers, faults = self.intermediate_layers, []
        if list(layers) != sorted(set(layers)):
            faults.append(f"intermediate_layers must rise, each block once, got {list(layers)}")
        if not layers and self.intermediate_weight != type(self).model_fields["intermediate_weight"].default:
            faults.append(
                f"intermediate_weight must be left out without intermediate_layers, got {self.intermediate_weight}"
            )
        if self.self_conditioned and not layers:
            faults.append("intermediate_layers must name blocks where self_conditioned is true, got none")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def feature_encoder_thaws_at(self) -> int:
        """First update in which the front end may learn, where it ever does."""
        return 0 if isinstance(self.freeze_feature_encoder, bool) else self.freeze_feature_encoder

    @property
    def thaws_at(self) -> tuple[int, ...]:
        """Updates at which what was frozen begins to learn, rising; empty where nothing does."""
        return tuple(sorted({n for n in (self.freeze_encoder_updates, self.feature_encoder_thaws_at) if n > 0}))


class DropoutConfig(Section):
    """Dropouts of the encoder while a recogniser is trained; what is not given stays as the encoder has it."""

    dropout: Rate | None = None
    attention_dropout: Rate | None = None
    activation_dropout: Rate | None = None
    feature_dropout: Rate | None = None
    layer_drop: Rate | None = None


# Fine-tuning's own defaults (wav2vec 2.0 section 4.3); the second part is a shape that only its schedule has.
_FINETUNE_OPTIM = {"lr": 5e-5, "eps": 1e-8, "weight_decay": 0.0}
_TRI_STAGE = {"schedule": "tri_stage", "warmup_share": 0.1, "hold_share": 0.4, "final_scale": 0.05}


class FinetuneConfig(Section):
    """``audio-ssl finetune``: a CTC recogniser on a pre-trained encoder, or on a fresh one for comparison."""

    init_from: Path | None = None
    """A model directory to start from."""
    model: ModelConfig | None = None
    """Shape of a fresh encoder, where there is no ``init_from``."""
    dropouts: DropoutConfig = DropoutConfig()
    ctc: CTCConfig = CTCConfig()
    text: TextRules = TextRules()
    vocabulary: VocabularyConfig = VocabularyConfig()
    adapt: AdaptConfig = AdaptConfig()
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig(**_FINETUNE_OPTIM, **_TRI_STAGE)
    """Rate, schedule, eps and weight decay that are not given are as the paper fine-tunes, and not as ``pretrain`` has
    them. ``clip_norm`` is that of ``pretrain``: norms of 60 to 350 were seen, so it scales every update down, where
    fairseq's recipes do not clip."""
    guard: GuardConfig = GuardConfig()
    preflight: PreflightConfig = PreflightConfig()
    run: RunConfig

    @model_validator(mode="before")
    @classmethod
    def _read_lowercase(cls, values: Any) -> Any:
        """Configurations from before there were text rules say ``ctc.lowercase``."""
        ctc = values.get("ctc") if isinstance(values, dict) else None
        if not isinstance(ctc, dict) or "text" in values:
            return values
        rest = with_text_rules(ctc)
        text = rest.pop("text", None)
        return values if text is None else {**values, "ctc": rest, "text": text}

    @model_validator(mode="before")
    @classmethod
    def _fill_optim(cls, values: Any) -> Any:
        given = values.get("optim") if isinstance(values, dict) else None
        if not isinstance(given, dict):
            return values
        shape = {} if "schedule" in given else _TRI_STAGE
        return {**values, "optim": {**_FINETUNE_OPTIM, **shape, **given}}

    @model_validator(mode="after")
    def _one_source(self) -> FinetuneConfig:
        if (self.init_from is None) == (self.model is None):
            both = "both are" if self.model else "neither is"
            raise ValueError(
                "one of init_from (a model directory) and model (the shape of a fresh encoder) must be given, "
                f"{both}; a loaded encoder keeps its shape, its dropouts are changed by `dropouts`"
            )
        return self

    @model_validator(mode="after")
    def _freezes_one_way(self) -> FinetuneConfig:
        if not self.adapt.freezes_encoder:
            return self
        faults = []
        if self.init_from is None:
            faults.append("init_from must be given with adapt: a fresh encoder has nothing that is worth freezing")
        if self.ctc.freeze_feature_encoder is not True or self.ctc.freeze_bottom_blocks:
            faults.append(
                "ctc.freeze_feature_encoder must be true and ctc.freeze_bottom_blocks 0 with adapt, which freezes the "
                f"whole encoder, got {self.ctc.freeze_feature_encoder} and {self.ctc.freeze_bottom_blocks}"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _validates_for_patience(self) -> FinetuneConfig:
        if faults := _faults_of_patience(self.run, self.data):
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _transcripts_stay_true(self) -> FinetuneConfig:
        if self.augment.mix_prob > 0 and self.augment.mix_snr_db[0] < 0:
            raise ValueError(
                f"augment.mix_snr_db must start at 0 or above in fine-tuning, got {self.augment.mix_snr_db[0]:g}: the "
                "transcript is that of the row, which must not be the quieter speaker"
            )
        return self
