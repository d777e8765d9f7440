"""Peers of the tagger: a CRF with hand features (python-crfsuite), and the same model in plain torch with a loop CRF.

python-crfsuite is not a dependency; where it is not installed, the benchmark says "not run".
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bilstm.data.word_encoder import WordBatch, shape_of

__all__ = ["LoopCrf", "PlainTagger", "crfsuite_tags", "hand_features"]


# ---- python-crfsuite -----------------------------------------------------------------------------------------------


def hand_features(tokens: Sequence[str]) -> list[list[str]]:
    """Features of each token as they are usual for entity recognition: words, affixes, shapes, casing, in a window."""
    rows = []
    for place, token in enumerate(tokens):
        lower = token.lower()
        row = ["bias", f"w={lower}", f"W={token}", f"shape={shape_of(token)}"]
        row += [f"prefix={lower[:length]}" for length in (1, 2, 3, 4)]
        row += [f"suffix={lower[-length:]}" for length in (1, 2, 3, 4)]
        row += [
            f"upper={token.isupper()}",
            f"title={token.istitle()}",
            f"digit={any(character.isdigit() for character in token)}",
            f"hyphen={'-' in token}",
            f"mention={token.startswith('@')}",
            f"tag={token.startswith('#')}",
            f"address={token.startswith('http')}",
        ]
        for distance in (-2, -1, 1, 2):
            other = place + distance
            if not 0 <= other < len(tokens):
                row.append(f"{distance}:border")
                continue
            word = tokens[other]
            row += [f"{distance}:w={word.lower()}", f"{distance}:shape={shape_of(word)}"]
            row.append(f"{distance}:title={word.istitle()}")
            if abs(distance) == 1:
                row += [f"{distance}:prefix={word[:3].lower()}", f"{distance}:suffix={word[-3:].lower()}"]
        if place:
            row.append(f"pair={tokens[place - 1].lower()}|{lower}")
        if place + 1 < len(tokens):
            row.append(f"pair={lower}|{tokens[place + 1].lower()}")
        rows.append(row)
    return rows


def crfsuite_tags(
    train: tuple[list[list[str]], list[list[str]]], parts: Sequence[list[list[str]]], c1: float, c2: float
) -> list[list[list[str]]]:
    """Train python-crfsuite and tag each of `parts`.

    Parameters
    ----------
    train : (tokens, tags)
    parts : sequence of lists of token lists
    c1, c2 : float
        Its L1 and L2 regularisation.
    """
    import pycrfsuite  # type: ignore[import-not-found]

    trainer = pycrfsuite.Trainer(verbose=False)
    for tokens, tags in zip(*train, strict=True):
        trainer.append(hand_features(tokens), tags)
    trainer.set_params({"c1": c1, "c2": c2, "max_iterations": 100, "feature.possible_transitions": True})
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model")
        trainer.train(path)
        tagger = pycrfsuite.Tagger()
        tagger.open(path)
        answers = [[list(tagger.tag(hand_features(tokens))) for tokens in part] for part in parts]
        tagger.close()
    return answers


# ---- plain torch ---------------------------------------------------------------------------------------------------


class LoopCrf(nn.Module):
    """A CRF as the tutorials write it: padded batch, a mask, one step of torch operations after another."""

    def __init__(self, tags: int):
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(tags, tags))
        self.start = nn.Parameter(torch.zeros(tags))
        self.end = nn.Parameter(torch.zeros(tags))

    def forward(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Negative log-likelihood, summed; emissions (time, batch, tags), tags and mask (time, batch)."""
        rows = torch.arange(emissions.shape[1])
        score = self.start[tags[0]] + emissions[0, rows, tags[0]]
        alpha = self.start + emissions[0]
        for time in range(1, len(emissions)):
            step = self.transitions[tags[time - 1], tags[time]] + emissions[time, rows, tags[time]]
            score = score + step * mask[time]
            following = torch.logsumexp(alpha[:, :, None] + self.transitions, dim=1) + emissions[time]
            alpha = torch.where(mask[time, :, None], following, alpha)
        last = tags[mask.long().sum(0) - 1, rows]
        return (torch.logsumexp(alpha + self.end, dim=1) - score - self.end[last]).sum()


class PlainTagger(nn.Module):
    """The same model as `bilstm.layers.tagger.Tagger` in its default form, with torch's own modules, padded."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        state = ours.state_dict()
        self.words = nn.Embedding.from_pretrained(state["features.words.layers.0.weight"].clone(), freeze=False)
        self.characters = nn.Embedding.from_pretrained(
            state["features.characters.layers.0.weight"].clone(), freeze=False
        )
        weight = state["features.characters.layers.1.weight"]
        self.convolution = nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2)
        self.convolution.load_state_dict(
            {name: state[f"features.characters.layers.1.{name}"] for name in ("weight", "bias")}
        )
        self.traits = nn.Embedding.from_pretrained(state["features.traits.layers.0.weight"].clone(), freeze=False)
        recurrent = {
            name.removeprefix("encoder.layers.0."): value for name, value in state.items() if "encoder" in name
        }
        hidden = recurrent["weight_hh_l0"].shape[1]
        self.lstm = nn.LSTM(recurrent["weight_ih_l0"].shape[1], hidden, bidirectional=True)
        self.lstm.load_state_dict(recurrent)
        head = state["tags.layers.0.weight"]
        self.head = nn.Linear(head.shape[1], head.shape[0])
        self.head.load_state_dict({name: state[f"tags.layers.0.{name}"] for name in ("weight", "bias")})
        self.crf = LoopCrf(head.shape[0])
        self.crf.load_state_dict({name: state[f"crf.{name}"] for name in ("transitions", "start", "end")})

    def forward(self, batch: WordBatch, tags: Tensor) -> Tensor:
        """Mean loss over tokens."""
        spelled = [torch.from_numpy(batch.characters[row]) for row in range(len(batch.characters))]
        characters = nn.utils.rnn.pad_sequence(spelled, batch_first=True)
        lengths = torch.tensor([len(word) for word in spelled])
        inside = torch.arange(characters.shape[1])[None] < lengths[:, None]
        vectors = self.characters(characters) * inside[:, :, None]
        maps = self.convolution(vectors.transpose(1, 2)).masked_fill(~inside[:, None], -torch.inf)
        traits = self.traits(torch.from_numpy(batch.traits)).flatten(1)
        of_word = torch.cat([maps.amax(dim=2), traits], dim=1)
        steps = torch.cat([self.words(torch.from_numpy(batch.words.values)), of_word[torch.from_numpy(batch.place)]], 1)
        sizes = batch.words.lengths.tolist()
        padded = nn.utils.rnn.pad_sequence(list(steps.split(sizes)))  # (time, batch, features)
        packed = nn.utils.rnn.pack_padded_sequence(padded, torch.tensor(sizes), enforce_sorted=False)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0])
        gold = nn.utils.rnn.pad_sequence(list(tags.split(sizes)))
        mask = torch.arange(len(outputs))[:, None] < torch.tensor(sizes)[None]
        return self.crf(self.head(outputs), gold, mask) / len(tags)
