"""Is a ranking true? Rival methods, measures that know scores only, and training again without some texts."""
