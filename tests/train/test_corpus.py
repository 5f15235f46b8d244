"""The corpus split: disjoint, deterministic, a matter of paths alone."""

from pathlib import Path

from nldc.runtime.train.corpus import is_held_out, read_files
from nldc.runtime.train.prompts import draw_prompts, read_prompts, write_prompts
from nldc.runtime.train.tokenizer import BOS, EOS, MASK, encode_stream, train_tokenizer


def _tree(root: Path) -> None:
    for number in range(120):
        folder = root / f"pkg{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"module_{number}.py").write_text(f"value = {number}\n" * 40)
    (root / "site-packages").mkdir()
    (root / "site-packages" / "other.py").write_text("x = 1\n")
    (root / "latin.py").write_bytes(b"# \xe9\n")
    (root / "empty.py").write_text("\n")


def test_the_split_is_disjoint_complete_and_the_same_every_time(tmp_path: Path) -> None:
    _tree(tmp_path)
    training = [file.path for file in read_files(tmp_path, held_out=False)]
    unseen = [file.path for file in read_files(tmp_path, held_out=True)]
    assert unseen
    assert not set(training) & set(unseen)
    assert len(training) + len(unseen) == 120
    assert training == [file.path for file in read_files(tmp_path, held_out=False)]
    assert all(is_held_out(path) for path in unseen)


def test_third_party_code_and_files_that_are_not_text_are_left_out(tmp_path: Path) -> None:
    _tree(tmp_path)
    paths = {file.path for held in (True, False) for file in read_files(tmp_path, held_out=held)}
    assert not paths & {"site-packages/other.py", "latin.py", "empty.py"}


def test_a_copy_of_a_training_file_is_never_held_out(tmp_path: Path) -> None:
    _tree(tmp_path)
    unseen = next(read_files(tmp_path, held_out=True))
    training = next(read_files(tmp_path, held_out=False))
    (tmp_path / unseen.path).write_text(training.text)
    assert unseen.path not in {file.path for file in read_files(tmp_path, held_out=True)}


def test_the_stream_marks_where_texts_begin_and_end() -> None:
    texts = ["def f():\n    return 1\n" * 20, "class A:\n    pass\n" * 20]
    tokenizer = train_tokenizer(texts, 300)
    stream = encode_stream(tokenizer, texts).tolist()
    assert stream.count(BOS) == stream.count(EOS) == 2
    assert MASK not in stream
    first = stream[1 : stream.index(EOS)]
    assert tokenizer.decode(first) == texts[0]


def test_prompts_have_the_asked_length_and_are_text_of_their_file(tmp_path: Path) -> None:
    _tree(tmp_path)
    files = list(read_files(tmp_path, held_out=True))
    tokenizer = train_tokenizer((file.text for file in files), 300)
    prompts = draw_prompts(files, tokenizer, tokens=24, count=6, per_file=2)
    text = {file.path: file.text for file in files}
    assert prompts
    for prompt in prompts:
        assert len(tokenizer.encode(prompt.prompt).ids) == 24
        assert prompt.prompt in text[prompt.file]
    write_prompts(prompts, tmp_path / "prompts.jsonl")
    assert read_prompts(tmp_path / "prompts.jsonl") == prompts
