"""Flames: does behaviour change?"""
