"""What papers published: tables that scores are compared with."""
