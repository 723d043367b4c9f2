"""How trusted checks call student code: what may cross (`wire`), who answers there (`server`), who asks here (`client`)."""
