"""The page in a browser: thin views of run folders, a server that is careful whom it answers, and one worker."""
