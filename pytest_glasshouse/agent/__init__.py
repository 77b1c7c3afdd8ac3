"""The guest's long-lived process: it measures, starts legs, spools their events, and signs evidence."""
