"""Where the programs of ``code`` run and are judged by their tests."""
