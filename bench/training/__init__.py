"""Tiny models, trained: does an attention learn what it is for?"""
