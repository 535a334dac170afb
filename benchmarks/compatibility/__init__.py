"""What other people's operators and models come to: `docs/compatibility.md` is written here."""
