"""How far the offline estimate of tokens is from real vocabularies, by kind of text, and what it costs.

Run: ``python benchmarks/counting.py`` (extra ``callbox[tokens]``, and the BFCL data of the tests). Everything is made
here or comes with Python and BFCL, so that anybody gets the same texts but for the version of Python's own sources.
"""

from __future__ import annotations

import ast
import base64
import json
import random
import sys
import sysconfig
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from callbox.context.counting import define, estimate_tokens, exact
from datasets import bfcl

VOCABULARIES = ("o200k_base", "cl100k_base", "qwen3")
WORDS = ["order", "shipped", "pending", "warehouse", "carrier", "parcel", "Hamburg", "invoice", "refund", "delayed"]
LANGUAGES = {
    "german": "Die Bestellung wurde am Montag verschickt und sollte spätestens am Donnerstag bei Ihnen eintreffen. "
    "Falls das Paket beschädigt ist, melden Sie sich bitte innerhalb von vierzehn Tagen bei unserem Kundendienst.",
    "french": "La commande a été expédiée lundi et devrait arriver chez vous jeudi au plus tard. Si le colis est "
    "endommagé, veuillez prévenir notre service clientèle dans un délai de quatorze jours.",
    "spanish": "El pedido se envió el lunes y debería llegar a su domicilio el jueves como muy tarde. Si el paquete "
    "está dañado, avise a nuestro servicio de atención al cliente en un plazo de catorce días.",
    "polish": "Zamówienie zostało wysłane w poniedziałek i powinno dotrzeć najpóźniej w czwartek. Jeżeli paczka jest "
    "uszkodzona, prosimy o zgłoszenie tego w ciągu czternastu dni.",
    "russian": "Заказ был отправлен в понедельник и должен прийти не позднее четверга. Если посылка повреждена, "
    "сообщите об этом в службу поддержки в течение четырнадцати дней.",
    "chinese": "订单已于星期一发出,最迟应在星期四送达。如果包裹有损坏,请在十四天之内联系我们的客户服务部门。",
    "japanese": "ご注文の商品は月曜日に発送され、遅くとも木曜日には届く予定です。"
    "荷物が破損している場合は、十四日以内にお問い合わせください。",
    "korean": "주문하신 상품은 월요일에 발송되었으며 늦어도 목요일까지 도착할 예정입니다. "
    "상품이 파손된 경우 고객 센터로 연락해 주세요.",
}


def texts() -> dict[str, list[str]]:
    """The texts of each kind."""
    chance = random.Random(11)
    sources = [
        (Path(sysconfig.get_paths()["stdlib"]) / name).read_text(encoding="utf-8")
        for name in (
            "argparse.py",
            "ast.py",
            "datetime.py",
            "decimal.py",
            "email/message.py",
            "http/client.py",
            "typing.py",
        )
    ]
    questions = [question for category in ("multiple", "live_multiple") for question in bfcl.load(category)]
    return {
        "questions": [question.text for question in questions[:400]],
        "english": [text for source in sources for text in docstrings(source)],
        "code": [source[at : at + 1_500] for source in sources for at in range(0, len(source) - 1_500, 1_500)],
        "definitions": [json.dumps(define(tool)) for q in questions[:200] for tool in bfcl.tools_of(q)],
        "json results": [json.dumps(orders(chance)) for _ in range(100)],
        "logs": [log(chance) for _ in range(100)],
        "base64": [base64.b64encode(chance.randbytes(chance.randint(200, 2_000))).decode() for _ in range(50)],
        "hex": [chance.randbytes(chance.randint(100, 1_000)).hex() for _ in range(50)],
        **{name: [text] for name, text in LANGUAGES.items()},
    }


def docstrings(source: str) -> list[str]:
    """The longer docstrings of a module, as running text."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    found = [" ".join((ast.get_docstring(node) or "").split()) for node in nodes]
    return [text for text in found if len(text) > 200]


def orders(chance: random.Random) -> dict[str, object]:
    """A tool's result."""
    rows = [
        {
            "order_id": f"A-{chance.randint(1_000, 99_999)}",
            "status": chance.choice(WORDS),
            "total": round(chance.random() * 1_000, 2),
            "created_at": f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}T08:15:00Z",
            "note": " ".join(chance.choices(WORDS, k=chance.randint(0, 8))),
        }
        for _ in range(chance.randint(1, 8))
    ]
    return {"orders": rows, "next": None, "ok": True}


def log(chance: random.Random) -> str:
    """Some lines of a log."""
    lines = [
        f"2026-11-{chance.randint(1, 28):02} 08:{chance.randint(10, 59)}:02,{chance.randint(100, 999)} INFO [http] "
        f"id={uuid.UUID(int=chance.getrandbits(128))} path=/api/v1/{chance.choice(WORDS)} ms={chance.randint(1, 999)}"
        for _ in range(chance.randint(2, 10))
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    counters = {name: exact(name) for name in VOCABULARIES}
    print(
        "estimate against real vocabularies: error of the total, and mean error of one text (the bare 4.17 for scale)"
    )
    print(
        f"{'kind':14}{'texts':>6}"
        + "".join(f"{name:>20}" for name in VOCABULARIES)
        + f"{'4.17, o200k':>14}{'us/100':>9}"
    )
    for kind, samples in texts().items():
        start = time.process_time()
        for _ in range(5):
            guesses = [estimate_tokens(text) for text in samples]
        chars = sum(len(text) for text in samples)
        micros = (time.process_time() - start) / 5 / chars * 100 * 1e6
        row = f"{kind:14}{len(samples):6}"
        for counter in counters.values():
            real = [counter.count(text) for text in samples]
            off = sum(abs(guess / true - 1) for guess, true in zip(guesses, real, strict=True)) / len(real)
            row += f"{sum(guesses) / sum(real) - 1:+12.1%} {off:7.1%}"
        total = sum(counters["o200k_base"].count(text) for text in samples)
        print(f"{row}{chars / 4.17 / total - 1:+14.1%}{micros:9.2f}")


if __name__ == "__main__":
    main()
