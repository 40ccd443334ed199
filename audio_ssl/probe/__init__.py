"""What frozen representations are worth on tasks that they were not trained for, beside log-mel and random weights.

A task file (:class:`audio_ssl.config.probe.ProbeTask`) becomes :class:`~audio_ssl.probe.items.Items` and folds; a
candidate turns the items into :class:`~audio_ssl.probe.items.Frames`; a runner of the task's kind turns these
:class:`~audio_ssl.probe.scores.Score`, one a head. Runners know neither candidates nor files, and nothing here
trains an encoder.
"""
