"""Chat templates: the world of transformers, in a process that cannot do harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_tokenizer import TEMPLATE, byte_level, written

from nldc.runtime.errors import PromptError, TokenizerError
from nldc.runtime.text import chat, template_process
from nldc.runtime.text.chat import Chat, chat_prompt, render
from nldc.runtime.text.template_process import TemplateProcess
from nldc.runtime.text.tokenizer import Tokenizer

HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": {"content": "<s>"}, "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_a_conversation_becomes_the_text_of_the_template(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "?"},
    ]
    assert render(tokenizer, messages) == "<s>[USER]hi\n[BOT]ho\n[USER]?\n[BOT]"
    assert chat_prompt(tokenizer, "hi", "prompt 0")[:2] == [0, 2]


def test_the_template_file_goes_before_the_one_in_the_settings(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert render(Tokenizer.load(folder), [{"role": "user", "content": "hi"}]) == "hi!"


def test_a_template_cannot_reach_out_of_its_sandbox(folder: Path) -> None:
    for attack in (
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{{ 9 ** (9 ** 9) }}",
    ):
        (folder / "chat_template.jinja").write_text(attack)
        with pytest.raises(TokenizerError, match="the chat template fails"):
            render(Tokenizer.load(folder), [{"role": "user", "content": "hi"}])


def test_a_template_that_loops_for_ever_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "SECONDS", 0.1)
    nested = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(nested)
    with pytest.raises(TokenizerError, match=r"template fails: it takes longer than 0\.1 s"):
        render(Tokenizer.load(folder), [{"role": "user", "content": "hi"}])


def test_a_template_that_writes_nothing_is_an_error_about_the_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("")
    with pytest.raises(PromptError, match="prompt 0 is empty: the chat template writes nothing"):
        chat_prompt(Tokenizer.load(folder), "hi", "prompt 0")


def test_a_refused_conversation_and_a_missing_template_are_told_apart(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    with pytest.raises(PromptError, match="prompt 3: unknown role judge"):
        chat_prompt(tokenizer, [{"role": "judge", "content": "no"}], "prompt 3")
    with pytest.raises(PromptError, match="prompt 3 is no conversation"):
        chat_prompt(tokenizer, [1, 2], "prompt 3")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(
        TokenizerError, match=r"^(?!.*fails).*has no chat template.*--chat-template FILE"
    ):
        chat_prompt(Tokenizer.load(folder), "hi", "prompt 0")


def rendered(folder: Path, template: str, options: Chat | None = None, **files: Any) -> str:
    tokenizer = Tokenizer.load(written(folder, chat_template__jinja=template, **files))
    return render(tokenizer, HI, "prompt 0", options)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
         "hi"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{{ {'b': 'é<'} | tojson(indent=1) }}", '{\n "b": "é<"\n}'),
        (("{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=True, separators=(',', ':'), "
         "sort_keys=True) }}"), '{"a":1,"b":"\\u00e9"}'),
        ("{{ tools is defined }}{{ tools is none }}{{ documents is none }}", "TrueTrueTrue"),
        ("{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}", "<s></s>False"),
        (("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
         "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"), "02"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ 2 ** 3 }}", "8"),
        ("  {% if true %}\r\nx\r\n  {% endif %}\r\ny", "x\ny"),
        ("{{ messages[0].content[::-1] }}{{ messages[0].get('no') }}", "ihNone"),
    ],
)  # fmt: skip
def test_a_template_finds_the_world_of_transformers(
    tmp_path: Path, template: str, text: str
) -> None:
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    assert rendered(tmp_path, template, tokenizer_config__json=settings) == text


NAMED = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T{{ tools }}"}]


@pytest.mark.parametrize(
    ("files", "options", "start"),
    [
        ({"tokenizer_config__json": {"chat_template": NAMED}}, Chat(), "D"),
        ({"tokenizer_config__json": {"chat_template": NAMED}}, Chat(tools=TOOLS), "T[{"),
        ({"tokenizer_config__json": {"chat_template": NAMED}}, Chat(template="tool_use"), "TNone"),
        ({"tokenizer_config__json": {"chat_template": {"default": "M"}}}, Chat(), "M"),
        ({"chat_template__json": {"chat_template": "P"}}, Chat(), "P"),
        ({"chat_template__json": {"chat_template": NAMED}}, Chat(), "D"),
        ({"chat_template__json": {"chat_template": "P"}, "chat_template__jinja": "J",
          "tokenizer_config__json": {"chat_template": NAMED}}, Chat(), "J"),
        ({"chat_template__json": {"chat_template": "P"},
          "tokenizer_config__json": {"chat_template": NAMED}}, Chat(), "D"),
        ({"tokenizer_config__json": {"chat_template": None},
          "chat_template__json": {"chat_template": "P"}}, Chat(), "P"),
        ({"chat_template__jinja": "\ufeffJ"}, Chat(), "J"),
        ({"chat_template__jinja": "J"}, Chat(template="{{ messages[0].content }}!"), "hi!"),
    ],
)  # fmt: skip
def test_the_template_is_found_wherever_a_checkpoint_keeps_it(
    tmp_path: Path, files: dict[str, Any], options: Chat, start: str
) -> None:
    tokenizer = Tokenizer.load(written(tmp_path, **files))
    assert render(tokenizer, HI, "prompt 0", options).startswith(start)


def test_templates_beside_the_default_one_are_chosen_by_name_or_as_a_file(tmp_path: Path) -> None:
    folder = written(tmp_path, chat_template__jinja="J")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    (tmp_path / "own.jinja").write_text("O")
    tokenizer = Tokenizer.load(folder)
    for template, text in ((None, "J"), ("rag", "R"), (tmp_path / "own.jinja", "O"),
                           (str(tmp_path / "own.jinja"), "O")):  # fmt: skip
        assert render(tokenizer, HI, "prompt 0", Chat(template=template)) == text
    with pytest.raises(PromptError, match="no chat template `rga`") as caught:
        render(tokenizer, HI, "prompt 0", Chat(template="rga"))
    assert "the checkpoint has default, rag" in str(caught.value.hint)


def test_several_templates_without_a_default_ask_for_a_choice(tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer_config__json={"chat_template": {"a": "A", "b": "B"}})
    with pytest.raises(TokenizerError, match="none is the default") as caught:
        render(Tokenizer.load(folder), HI)
    assert str(caught.value.hint).endswith("a, b")


def test_variables_tools_and_a_system_message_reach_the_template(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
        "{{ tools[0].function.name if tools }}{{ '<think>' if enable_thinking else '-' }}"
    )
    assert rendered(tmp_path, template) == "user:hi;-"
    options = Chat("be brief", TOOLS, {"enable_thinking": True})
    assert rendered(tmp_path, template, options) == "system:be brief;user:hi;add<think>"
    own = [{"role": "system", "content": "x"}, *HI]
    with pytest.raises(PromptError, match="prompt 3 begins with a system message of its own"):
        render(Tokenizer.load(tmp_path), own, "prompt 3", Chat("be brief"))


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (Chat(variables={"enable_thinkin": True}), "makes no use of `enable_thinkin`",
         "did you mean `enable_thinking`?"),
        (Chat(variables={"q": 1}), "makes no use of `q`", "it uses enable_thinking"),
        (Chat(tools=TOOLS), "makes no use of `tools`", "it uses enable_thinking"),
        (Chat(variables={"messages": []}), "`messages` has an option of its own", "as the prompt"),
        (Chat(tools={"name": "x"}), "tools are not a list of JSON schemas", "function"),  # type: ignore[arg-type]
        (Chat(system=5), "system 5 is not allowed", "text"),  # type: ignore[arg-type]
        (Chat(variables={"enable_thinking": {1, 2}}), "cannot be given to the chat template",
         "JSON"),
    ],
)  # fmt: skip
def test_an_option_that_has_no_effect_or_no_sense_is_refused(
    tmp_path: Path, options: Chat, message: str, hint: str
) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        rendered(tmp_path, "{{ messages[0].content }}{{ enable_thinking }}", options)
    assert hint in str(caught.value.hint)


def test_messages_may_call_tools_without_a_content(tmp_path: Path) -> None:
    folder = written(tmp_path, chat_template__jinja="{{ messages[1].tool_calls[0].name }}")
    messages = [*HI, {"role": "assistant", "tool_calls": [{"name": "add"}]}]
    assert chat_prompt(Tokenizer.load(folder), messages, "prompt 0")
    with pytest.raises(PromptError, match="prompt 0 is no conversation"):
        chat_prompt(Tokenizer.load(folder), [{"role": "user"}], "prompt 0")


@pytest.mark.parametrize(
    "attack",
    [
        "{% if false %}{{ ('a b\\n'*4000000)|wordwrap(1) }}{% endif %}",
        (
            "{% set ns = namespace(x=7) %}{% for i in range(40) %}{% set ns.x = ns.x * ns.x %}"
            "{% endfor %}{{ ns.x // 3 }}"
        ),
        "{{ '\\t'.expandtabs(2000000000) }}",
        "{{ ('x' * 9999).join(['y'] * 99999) }}",
        "{{ '" + "(" * 20 + "' * 20000000 }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% for i in range(9**9) %}{% endfor %}",
    ],
)
def test_no_template_takes_more_than_its_time_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    monkeypatch.setattr(chat, "SECONDS", 1.0)
    begun = time.monotonic()
    with pytest.raises(TokenizerError, match="the chat template fails") as caught:
        rendered(tmp_path, attack)
    assert time.monotonic() - begun < 20
    assert "chat_template.jinja" in caught.value.message
    assert rendered(tmp_path, "{{ messages[0].content }}") == "hi"


def test_a_mistake_in_a_template_is_named_with_its_line(tmp_path: Path) -> None:
    for template in ("a\n{{ messages[0].x.y }}", "a\n{% if %}", "a\n{{ 'a' + 1 }}"):
        with pytest.raises(
            TokenizerError, match=r"chat_template\.jinja:2: the chat template fails"
        ):
            rendered(tmp_path, template)


def test_a_pipe_in_place_of_a_template_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "chat_template.jinja")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja is no file"):
        render(Tokenizer.load(written(tmp_path)), HI)


def test_a_template_that_kills_its_process_is_an_error_and_the_next_one_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rendered(tmp_path, "{{ messages[0].content }}") == "hi"
    process = template_process.PROCESS._process
    assert process is not None
    monkeypatch.setattr(process, "poll", lambda: None)  # it dies unseen, in the middle of a render
    process.kill()
    with pytest.raises(TokenizerError, match="ends the process that renders it"):
        rendered(tmp_path, "{{ messages[0].content }}")
    assert rendered(tmp_path, "{{ messages[0].content }}") == "hi"


def test_where_no_process_can_be_started_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(chat, "PROCESS", TemplateProcess())
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(TokenizerError, match="no process can be started for it") as caught:
        rendered(tmp_path, "x")
    assert "give the text or its token ids" in str(caught.value.hint)


@pytest.mark.parametrize("program", ["", "/nowhere/python", "/bin/true"])
def test_a_python_that_is_none_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(chat, "PROCESS", TemplateProcess())
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(TokenizerError, match="no process can be started for it"):
        rendered(tmp_path, "x")


def test_threads_share_the_process_without_mixing_answers(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(written(tmp_path, chat_template__jinja="{{ messages[0].content }}"))
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = render(tokenizer, [{"role": "user", "content": str(number)}])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: str(number) for number in range(16)}


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    written(tmp_path, chat_template__jinja="x")
    code = (
        "from nldc.runtime.text.chat import render;"
        "from nldc.runtime.text.tokenizer import Tokenizer;"
        "from nldc.runtime.text.template_process import PROCESS;"
        f"render(Tokenizer.load({str(tmp_path)!r}), [dict(role='user', content='')]);"
        "print(PROCESS._process.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
    assert not done.stderr
