"""The words of names and descriptions: verbs that mean the same, words that mean little."""

from __future__ import annotations

import re

_SYNONYMS = """
get fetch retrieve read show lookup look load obtain view return give display access pull
list enumerate
search find query locate browse
create add make new insert register open generate produce build
update edit modify change set patch adjust alter replace
delete remove destroy drop erase purge clear wipe
cancel abort stop terminate
send submit dispatch deliver email notify
compute calculate evaluate solve
convert transform translate
run execute invoke perform launch start
check verify validate confirm test
book reserve schedule
buy purchase order_verb pay
upload import
download export
"""
SAME_VERB = {word: line.split()[0] for line in _SYNONYMS.strip().splitlines() for word in line.split()}
"""A verb that many use for an action, by each verb that means the same."""

_OTHER_VERBS = """
accept activate allocate analyse analyze answer append apply approve archive assign attach authenticate authorize
block call capture categorize charge classify close collect combine commit compare compress configure connect copy
count decide decline decode decrypt deduct deploy describe detect determine disable disconnect divide draw duplicate
enable encode encrypt end estimate examine exchange expand explain extract filter finish fit fix flag fork format
forward grant group guess handle help hide identify ignore increase inspect install issue join keep kill label learn
link lock log match measure merge monitor mount move multiply name navigate normalize optimize order paint parse pause
pick pin place plan play poll post predict prepare press print process provide publish push put raise rank rate
receive recommend record redirect reduce refresh refund reject release rename render repeat reply report request
reschedule reset resize resolve respond restart restore resume revert review revoke rotate round save scan score
select share ship sign simulate skip sort split store subscribe subtract suggest sum summarise summarize suspend
switch sync take tell track train transcribe transfer trigger turn type uninstall unlock unsubscribe use visit wait
watch withdraw write zip
"""
VERBS = frozenset(SAME_VERB) | frozenset(_OTHER_VERBS.split())
"""Verbs that a description of an action is likely to have."""

READING = frozenset({"get", "list", "search", "check", "compute", "count", "describe", "compare"})
DESTROYING = frozenset({"delete", "cancel", "uninstall", "revoke", "kill"})

_EMPTY = """
a about all also an and another any are as at be been being by can could do does each etc for from function given has
have here how i if in into is it its just may more must no not of on one only or other our out over per please returns
should so some specified such than that the their them then there these they this those through to tool used useful
using via want was we what when where which who will with would you your
"""
_EMPTY_WORDS = frozenset(_EMPTY.split())
PLACEHOLDERS = frozenset({"todo", "tbd", "fixme", "placeholder", "lorem", "untitled", "stuff", "something", "xxx"})


def words(text: str) -> list[str]:
    """Words in lower case; names are split at ``_``, ``-``, ``.`` and humps."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return re.findall(r"[^\W_]+", spaced.lower())


def stem(word: str) -> str:
    """The word without its ending, roughly: enough to see that "searches", "searched" and "search" are one verb."""
    for ending, least in (("ing", 5), ("ies", 4), ("es", 4), ("ed", 4), ("s", 3)):
        if word.endswith(ending) and len(word) > least and not word.endswith("ss"):
            base = word[: -len(ending)]
            if ending == "ies":
                return base + "y"
            for known in (base, base + "e", base[:-1] if base[-2:-1] == base[-1:] else base):
                if known in VERBS:
                    return known
            if ending == "s":
                return base
    return word


def meaning(text: str) -> list[str]:
    """The words that carry meaning, as stems, with verbs that mean the same made one."""
    stems = [stem(word) for word in words(text) if word not in _EMPTY_WORDS]
    return [SAME_VERB.get(each, each) for each in stems]


def first_verb(text: str) -> str | None:
    """The first verb of a text, as the one that stands for its meaning."""
    return next((SAME_VERB.get(each, each) for each in map(stem, words(text)) if each in VERBS), None)
