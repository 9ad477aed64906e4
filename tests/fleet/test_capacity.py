"""docs/capacity.md has the tables that plan.py prints."""

import sys
import unittest

from deployed import ROOT

sys.path.append(str(ROOT / "benches" / "fleet"))

import plan  # noqa: E402

PAGE = (ROOT / "docs" / "capacity.md").read_text()


class Page(unittest.TestCase):
    def test_its_tables_are_those_of_the_plan(self):
        for table in (plan.bounds(), plan.fleets(), plan.waits()):
            self.assertIn(table, PAGE, "python benches/fleet/plan.py prints the tables")

    def test_the_costs_are_those_that_it_lists(self):
        for way in plan.WAYS:
            self.assertIn(f"| {way.server_us:.1f} |", PAGE)
            if way.envoy_us:
                self.assertIn(f"| {way.server_us:.1f} | {way.envoy_us:.1f} |", PAGE)
