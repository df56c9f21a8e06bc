"""A small lesson with every kind of step, and what a line puts on the screen while it runs."""

from __future__ import annotations

import io

from steerchat.conversation.chat import Chat
from steerchat.screen.render import Screen
from steerchat.terminal.repl import run_line

LESSON = """+++
title = "Pushing"
about = "A first push."
minutes = 5
+++

## Look

A paragraph over
two lines, with *weight*.

    a picture
      of two lines

## Push

Now push.

```task
do = "/steer happy 50% 2.0"
wrong = ["/steer happy 50% 0.5", "/steer sad"]
hints = ["a gentle hint", "nearly the solution"]
[pass]
"happy > 1" = "push harder"
```

So that is a push.

## Ask

```task
question = "What is left of a push of strength 0?"
show = "zero happy"
hints = ["look at the table"]

[[choice]]
text = "everything"
right = "same == 0"
because = "There is nothing to add."

[[choice]]
text = "nothing"
right = "same == answers"
because = "Nothing was added."
```
"""


def say(chat: Chat, screen: Screen, line: str) -> str:
    """What one line puts on the screen, its line breaks aside."""
    screen.console.file = io.StringIO()
    run_line(chat, screen, line)
    return " ".join(screen.console.file.getvalue().split())
