"""From a network to kernel calls: matching, selection, order, memory."""
