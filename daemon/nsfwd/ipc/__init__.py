"""What lies between processes: the arena, links, messages, and supervised children with their first steps."""
