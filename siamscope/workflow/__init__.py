"""What the commands do: each function joins the rooms and works on a run directory."""
