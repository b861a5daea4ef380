"""Before the first task: whether every environment can be had."""
