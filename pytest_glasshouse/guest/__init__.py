"""What a leg is: the process that trains, protected or raw."""
