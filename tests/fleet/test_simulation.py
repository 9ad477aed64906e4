"""The simulation that docs/capacity.md plans with, against what queueing theory knows exactly."""

import sys
import unittest

from deployed import ROOT

sys.path.append(str(ROOT / "benches" / "fleet"))

from simulation import Fleet, Server, simulate  # noqa: E402

REQUESTS = 60_000
# Lines that come and go slowly have means that do, too.
MANY_REQUESTS = 200_000


class Theory(unittest.TestCase):
    def test_one_server_that_takes_one_row_at_a_time_is_m_d_1(self):
        for load in (0.3, 0.6, 0.8):
            outcome = simulate(Fleet(1, Server(0, 1, batch_rows_max=1), rate=load), MANY_REQUESTS)
            # Pollaczek and Khinchine: a wait of load / (2 (1 - load)) services.
            self.assertLess(abs(outcome.mean / (1 + load / (2 * (1 - load))) - 1), 0.03)
            self.assertLess(abs(outcome.busy / load - 1), 0.03)

    def test_a_batch_that_costs_the_same_whatever_is_in_it_never_falls_behind(self):
        outcome = simulate(Fleet(1, Server(1, 0), rate=50), REQUESTS)
        # Whoever comes waits for the rest of a batch, half of one in the mean, and is in the next.
        self.assertLess(abs(outcome.mean / 1.5 - 1), 0.03)
        self.assertLess(abs(outcome.batch_rows / 50 - 1), 0.03)

    def test_the_less_busy_of_two_is_better_than_chance(self):
        fleet = Fleet(10, Server(0, 1, batch_rows_max=1), rate=9)
        alone = simulate(Fleet(1, fleet.server, rate=0.9), REQUESTS)
        self.assertLess(simulate(fleet, REQUESTS).quantile(0.99), alone.quantile(0.99) / 2)

    def test_a_batch_waits_for_company_until_it_is_due_or_full(self):
        server = Server(0, 0, batch_rows_max=4, delay_s=1)
        seldom = simulate(Fleet(1, server, rate=0.001), 1000)
        self.assertAlmostEqual(seldom.quantile(0.5), 1)
        often = simulate(Fleet(1, server, rate=1000), 1000)
        self.assertAlmostEqual(often.batch_rows, 4, places=1)
        self.assertLess(often.mean, 0.01)


if __name__ == "__main__":
    unittest.main()
