"""Titles and descriptions: cleaned, judged by rules, told apart by language."""
