"""How trusted checks call student code: what crosses (`wire`), who answers (`server`, `cells`) and asks (`client`)."""
