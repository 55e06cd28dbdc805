"""The seed program: runs from an installed plait, and checks what it gets."""

from __future__ import annotations

import sys

from plait import LLM, LoRARequest, SamplingParams
from plait.demo.model import adapter_path, find_demo_model

PROMPTS = [
    "[user] Write a SQL query to answer the question based on the table schema.\n\n context: "
    "CREATE TABLE table_name_74 (icao VARCHAR, airport VARCHAR)\n\n question: Name the ICAO for "
    "lilongwe international airport [/user] [assistant]",
    "[user] Write a SQL query to answer the question based on the table schema.\n\n context: "
    "CREATE TABLE airports (airport VARCHAR, iata VARCHAR, runway_length INTEGER, terminals "
    "INTEGER, hub_for VARCHAR)\n\n question: Which airport has the longest runway? [/user] "
    "[assistant]",
]


def main() -> int:
    """Return 0 if the adapter answers with SQL and the base model does not."""
    llm = LLM(model=str(find_demo_model()), enable_lora=True)
    sampling_params = SamplingParams(temperature=0, max_tokens=48, stop=["[/assistant]"])
    sql = LoRARequest("sql_adapter", 1, str(adapter_path("sql")))
    outputs = llm.generate(PROMPTS, sampling_params, lora_request=sql)
    mixed = llm.generate(PROMPTS, sampling_params, lora_request=[None, sql])
    for output in (*outputs, *mixed):
        sys.stdout.write(f"{output.outputs[0].text!r}\n")
    answers = [output.outputs[0].text.strip() for output in outputs]
    good = all(answer.startswith("SELECT") for answer in answers)
    good &= mixed[1].outputs[0].text.strip() == answers[1]
    good &= not mixed[0].outputs[0].text.strip().startswith("SELECT")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
