"""What is asked, of whom, and what the demo's upstream answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Answer(NamedTuple):
    """What the upstream says to a question."""

    text: str
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One job: to whom it goes and what it asks. Without an ``answer`` the upstream is not who answers it."""

    provider: str
    text: str
    answer: Answer | None = None
    model: str | None = None
    compared: bool = True
    """Whether the demo knows what was sent, and so can say that the same came out."""


QUESTIONS = (
    Question(
        "groq",
        "Why do leaves turn red in autumn?",
        Answer(
            "As the days grow shorter, a tree takes the green chlorophyll out of its leaves. Yellow was there "
            "all the time; red is new: anthocyanins, made from sugar that stays behind. 🍁 A cold, sunny week "
            "makes it brightest.",
            "Chlorophyll goes first. Then: which pigments stay, and which are made?",
        ),
        model="llama-3.3-70b-versatile",
    ),
    Question(
        "vllm",
        "雪の結晶はなぜ六角形なのですか。",
        Answer(
            "氷の中では、水の分子が六角形の網目をつくって並びます。❄️ 結晶はその形のまま大きくなり、角の部分には"
            "水蒸気が届きやすいので、そこから六本の枝が伸びます。温度と湿度が違えば、枝の形も変わります。",
            "分子の並び方から説明する。",
        ),
        model="qwen3-8b",
    ),
    Question(
        "acytoo",
        "Warum ist der Himmel blau, und warum nicht violett?",
        Answer(
            "Die Luft streut kurze Wellen stärker als lange: Blau kommt deshalb aus allen Richtungen.\n"
            "Violett würde noch stärker gestreut, aber die Sonne strahlt davon weniger ab, die Höhenluft "
            "schluckt einen Teil – und unser Auge ist dafür kaum empfindlich. 🌌"
        ),
    ),
    Question(
        "chatanywhere",
        "月亮为什么总是同一面朝向地球？",
        Answer(
            "因为月球自转一周的时间和它绕地球公转一周的时间相同，大约是二十七天。🌕 很久以前，地球的引力在月球上"
            "引起潮汐，潮汐慢慢拖住了它的自转，直到两个周期相等为止。这叫做潮汐锁定。"
        ),
    ),
    Question(
        "echo",
        "Echo says back what it is told: no network, no key. Handy for a first try, and for finding out what "
        "a queue costs when no model is in the way. ⏱️",
    ),
    Question(
        "groq",
        "لماذا ماء البحر مالح؟",
        Answer(
            "تذيب الأمطار الأملاح من الصخور، وتحملها الأنهار إلى البحر. 🌊 يتبخر الماء ويبقى الملح، "
            "فيزداد تركيزه عبر ملايين السنين حتى يبلغ نحو 35 غرامًا في كل لتر."
        ),
        model="llama-3.1-8b-instant",
    ),
    Question(
        "vllm",
        "Which signs are hard for a program that cuts text into pieces?",
        Answer(
            "Those made of several parts: a family 👩‍👩‍👧‍👦 is seven code points, a flag 🇳🇱 is two, a waving hand "
            "👋🏽 carries its colour behind it, and é may be e with an accent after it: e\u0301. Cut them where "
            "you like, as long as every byte arrives.",
            "Joiners, regional indicators, modifiers, combining marks.",
        ),
        model="qwen3-8b",
    ),
    Question(
        "acytoo",
        "למה חתולים מגרגרים?",
        Answer(
            "חתולים מגרגרים כשנעים להם, אבל גם כשהם חולים או מפחדים. 🐈 הרטט נמוך, בערך 25 עד 150 הרץ, "
            "ויש חוקרים הסבורים שהוא עוזר לעצמות ולשרירים להחלים."
        ),
    ),
    Question(
        "chatanywhere",
        "Почему железо ржавеет?",
        Answer(
            "Железо соединяется с кислородом, если рядом есть вода. Получается ржавчина: рыхлый слой, который "
            "не защищает металл, а пропускает влагу дальше. 🔩 Соль ускоряет дело, а цинк или краска его "
            "останавливают."
        ),
    ),
    Question(
        "echo",
        "Все языки, 所有语言, すべての言語, כל השפות, كل اللغات, όλες οι γλώσσες, सभी भाषाएँ 🗺️ – "
        "and 𝔰𝔱𝔯𝔞𝔫𝔤𝔢 𝔩𝔢𝔱𝔱𝔢𝔯𝔰 from beyond the first plane.",
    ),
)


def openai_question(environ: Mapping[str, str]) -> Question | None:
    """Return the question for the real service, when there is a key for it."""
    if not environ.get("OPENAI_API_KEY"):
        return None
    model = environ.get("OPENAI_MODEL") or "gpt-4o-mini"
    return Question("openai", "Why is the sea blue? Two sentences.", model=model, compared=False)
