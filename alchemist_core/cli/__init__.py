"""Operator verbs: what a person does beside the stages. One file per verb, named like its command."""
