"""The demo's questions: table schemas that no demo adapter saw in training."""

from __future__ import annotations

STOP = "[/assistant]"

_TABLES_AND_QUESTIONS = (
    (
        "CREATE TABLE table_name_74 (icao VARCHAR, airport VARCHAR)",
        "Name the ICAO for lilongwe international airport",
    ),
    (
        "CREATE TABLE airports (airport VARCHAR, iata VARCHAR, runway_length INTEGER, "
        "terminals INTEGER, hub_for VARCHAR)",
        "Which airport has the longest runway?",
    ),
    (
        "CREATE TABLE volcanoes (volcano VARCHAR, island VARCHAR, summit_elevation INTEGER, "
        "last_eruption INTEGER, alert_level VARCHAR)",
        "List the volcanoes on Iceland with a red alert level.",
    ),
    (
        "CREATE TABLE grandmasters (grandmaster VARCHAR, elo INTEGER, federation VARCHAR, "
        "world_titles INTEGER, opening VARCHAR)",
        "What is the maximum elo for the federation Hungary?",
    ),
)


def questions() -> tuple[str, ...]:
    """Return the questions without their prompts, to be shown."""
    return tuple(question for _, question in _TABLES_AND_QUESTIONS)


def prompts() -> tuple[str, ...]:
    """Return the prompts, in the form that the SQL adapter was trained on."""
    return tuple(
        "[user] Write a SQL query to answer the question based on the table schema.\n\n"
        f" context: {table}\n\n question: {question} [/user] [assistant]"
        for table, question in _TABLES_AND_QUESTIONS
    )
