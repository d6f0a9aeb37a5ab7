"""Work of hours in cells that are never done twice: atlas, sweep, SAEs side by side, latents."""
