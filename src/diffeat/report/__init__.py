"""Results as pages: JSON for programs, Markdown for repositories, self-contained HTML for people."""
