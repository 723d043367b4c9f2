"""How trusted checks call student code: what may cross (`wire`), who answers (`server`, `cells`) and asks (`client`)."""
